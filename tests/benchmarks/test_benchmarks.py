"""The benchmarks run. What they measure here means nothing: it proves that no figure is silently missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .__main__ import main, measured
from .effort import PROOF
from .figures import FIGURES, Figure
from .measure import Timings, compare
from .result import result
from .sink import sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    with sink() as url:
        yield url


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_can_be_measured(figure: Figure, collector: str) -> None:
    found = measured(figure, "proof", collector)

    assert found.problem is None
    assert found.rounds >= 1
    assert figure.unit == "bytes" or found.value > 0
    assert (found.is_met is None) == (figure.target is None)


def test_names_are_unique() -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


def test_a_report_counts_the_figures_met_and_keeps_them_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"

    main(["--proof", "--only", "decision", "--json", str(file)])

    (row,) = json.loads(file.read_text())
    assert row["name"] == "decision"
    assert f"{int(row['met'])} of 1 figures met" in capsys.readouterr().out


def test_what_cannot_be_measured_is_reported_and_not_met(collector: str) -> None:
    absent = Figure(name="absent", title="Absent", peer="nothing", subject="nowhere:at_all", target=1.0)

    found = measured(absent, "proof", collector)

    assert "nowhere" in (found.problem or "")
    assert found.is_met is None


def test_the_figure_is_the_median_of_the_ratios_of_pairs() -> None:
    # The second pair was measured while the machine was slow: its ratio is as good as any.
    found = result(FIGURES[0], [Timings(ours=[1.0, 30.0], peer=[2.0, 60.0]), Timings(ours=[9.0], peer=[9.0])])

    assert found.value == 0.5
    assert found.rounds == 3


def test_both_sides_get_fresh_requests_in_turns_and_are_charged_per_request() -> None:
    turns: list[str] = []
    now = 0.0

    def side(name: str, cost_s: float) -> Callable[[int], Callable[[], object]]:
        def prepare(count: int) -> Callable[[], object]:
            def serve() -> None:
                nonlocal now
                turns.append(name)
                now += cost_s * count

            return serve

        return prepare

    found = compare(side("ours", 3e-6), side("peer", 1e-6), PROOF, clock=lambda: now)

    assert turns[-4:] == ["ours", "peer", "peer", "ours"]
    assert found.ours == pytest.approx([3.0, 3.0])
    assert found.peer == pytest.approx([1.0, 1.0])
