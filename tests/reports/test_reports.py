"""A report says what each stage saw, what was decided and why, in every form, and shows nobody's markup as its own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from rich.console import Console

from canary_middleware import open_store
from canary_middleware._control.people import keep
from canary_middleware._control.people import report_of as reported
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.schema import parse
from canary_middleware._views.reports import report_of
from canary_middleware._views.reports.data import interval
from canary_middleware._views.reports.page import page
from canary_middleware._views.reports.screen import screen
from canary_middleware._views.reports.words import lasting, markdown
from canary_middleware.cli import main
from canary_middleware.errors import ConfigError
from canary_middleware.stores.changes import Control
from tests.test_controller import Traffic, World

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

HOSTILE = "<script>alert(1)</script> | *bold*"


@pytest.fixture(scope="module")
def bad() -> dict[str, Any]:
    """A rollout that passed its first stage, and failed in the second."""
    world = World(Traffic(rps=300), stages=[10, 50, 100], duration="3m")
    world.start()
    world.run(100)
    keep(world.control, world.rollout, reported("feedback", HOSTILE), "ada")
    world.run(120)
    world.traffic.canary = 0.3
    world.run(300, until="rolled_back")
    return report_of(world.control, world.rollout)


def text_of(report: dict[str, Any]) -> str:
    console = Console(width=160, record=True)
    with console.capture() as capture:
        console.print(screen(report, lambda text: text))
    return capture.get()


def test_each_stage_has_its_figures_its_decision_and_its_reason(bad: dict[str, Any]) -> None:
    first, second = bad["stages"]

    assert (first["stage"], first["weight"], second["weight"]) == (1, 10, 50)
    assert first["decision"]["verb"] == "advance"
    assert second["decision"]["verb"] == "rollback"
    assert second["decision"]["reason"].startswith("v2 fails more often than v1")
    assert first["versions"]["v1"]["requests"] == pytest.approx(300 * 0.9 * 180, rel=0.05)
    assert second["to"] is not None
    side = first["versions"]["v2"]
    assert side["error_rate_low"] <= side["error_rate"] <= side["error_rate_high"]
    assert json.loads(json.dumps(bad)) == bad


def test_the_course_is_there_to_be_plotted(bad: dict[str, Any]) -> None:
    assert len(bad["points"]) > 50
    assert {point[2] for point in bad["points"]} >= {100_000, 500_000}


@pytest.mark.parametrize("form", [markdown, page, text_of])
def test_every_form_says_what_was_decided_and_why(bad: dict[str, Any], form: Any) -> None:
    said = form(bad)

    for part in (
        "Stage 1, 10 %",
        "Stage 2, 50 %",
        "v2 fails more often than v1",
        "e-values: worse than stable",
        "rolled back",
    ):
        assert part in said
    assert "alert(1)" in said


def test_what_people_wrote_is_no_markup(bad: dict[str, Any]) -> None:
    assert "<script" not in page(bad)
    assert "&lt;script&gt;alert(1)" in page(bad)
    assert r"\<script\>alert(1)\</script\> \| \*bold\*" in markdown(bad)


def test_the_page_needs_nothing_else_and_its_plots_are_described(bad: dict[str, Any]) -> None:
    html = page(bad)
    drawings = re.findall(r"<svg viewBox.*?</svg>", html)

    assert not re.search(r"(?:src|href|url)\s*[=(]", html)
    assert len(drawings) == 4
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert root.findtext("title")
        assert root.findtext("desc")
    assert "prefers-color-scheme: dark" in html
    assert "rolled back at 100" in html
    assert "NaN" not in html
    assert "nan" not in " ".join(drawings)


def test_one_stage_alone_and_one_that_never_was(bad: dict[str, Any]) -> None:
    world = World(Traffic(rps=300), stages=[10, 50], duration="10m")
    world.start()
    world.run(60)
    assert len(report_of(world.control, world.rollout, 1)["stages"]) == 1
    found = report_of(world.control, world.rollout)

    assert found["judge"]["verdict"] == "pass" or found["judge"]["missing"]
    with pytest.raises(ConfigError, match="stage 2 of 'checkout' was not entered in this run: there is 1"):
        report_of(world.control, world.rollout, 2)


def test_a_rollout_that_holds_says_what_is_missing() -> None:
    world = World(Traffic(rps=20), stages=[10, 50])
    world.start()
    world.run(120)
    found = report_of(world.control, world.rollout)

    assert "What is missing" in page(found)
    assert "## What is missing" in markdown(found)
    assert "more canary requests to show" in text_of(found)


def test_several_canaries_are_all_there() -> None:
    world = World(Traffic(rps=300), stages=[20, 100], canary={"v2": 50, "v3": 50}, duration="10m")
    world.start()
    world.run(60)
    html = page(report_of(world.control, world.rollout))

    assert "v3: worse than stable" in html
    assert "rolled back at 200" in html


def test_before_anybody_has_judged_it_says_who_must_do_what() -> None:
    world = World(stages=[10, 50])
    idle = report_of(world.control, world.rollout)
    world.change("start", transitions.start)
    started = report_of(world.control, world.rollout)

    assert idle["remark"] == "it has not been started: `canary start`"
    assert "`canary run`" in started["remark"]
    for form in (markdown, page, text_of):
        assert "canary run" in form(started)


def test_an_error_rate_s_interval_is_careful_with_little() -> None:
    assert interval(0, 0) == (0.0, 1.0)
    low, high = interval(1000, 0)
    assert low == 0.0
    assert 0.001 < high < 0.05
    low, high = interval(100_000, 1000)
    assert 0.008 < low < 0.01 < high < 0.012


def test_time_is_told_in_the_unit_that_fits() -> None:
    assert [lasting(s) for s in (5, 300, 9000, 200_000)] == ["5 s", "5.0 min", "2.5 h", "2.3 d"]


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> str:
    place = f"sqlite:///{tmp_path}/canary.db"
    store = open_store(place)
    plan = parse({"rollout": {"checkout": {"stages": [10, 50]}}}).rollouts[0]
    Control(store).register(Rollout(plan=plan), actor="service", reason="first seen")
    store.close()
    return place


def run(url: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["report", *words], env={"CANARY_STORE": url, "COLUMNS": "120"})


def test_the_command_prints_text_and_other_forms(url: str) -> None:
    assert "it has not been started" in run(url).output
    assert "it has not been started" in run(url, "checkout").output
    assert json.loads(run(url, "--json").output)["rollout"] == "checkout"
    assert run(url, "--format", "markdown").output.startswith("# Rollout checkout")
    assert run(url, "--format", "html").output.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "begins"), [("r.html", "<!doctype"), ("r.json", "{"), ("r.md", "# Rollout"), ("r", "# R")]
)
def test_a_file_gets_the_form_of_its_name(url: str, tmp_path: Path, name: str, begins: str) -> None:
    found = run(url, "--output", str(tmp_path / name))

    assert found.exit_code == 0
    assert (tmp_path / name).read_text().startswith(begins)


def test_a_file_that_cannot_be_written_is_named(url: str, tmp_path: Path) -> None:
    found = run(url, "--output", str(tmp_path / "no" / "r.html"))

    assert found.exit_code == 2
    assert "name a file that can be written" in found.output


def test_a_stage_that_never_was_is_wrong_usage(url: str) -> None:
    assert "stage 3 of 'checkout' was not entered" in run(url, "--stage", "3").output
