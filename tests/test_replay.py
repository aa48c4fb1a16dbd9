"""Recorded ticks are judged as they were lived; what is wrong with a file is said with its line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from canary_middleware._control.replay import LONGEST_LINE, read_ticks, replay
from canary_middleware._core.evidence import settings_of
from canary_middleware._core.plan.schema import RolloutPlan
from canary_middleware.cli import main
from canary_middleware.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def tick(at: int, *, weight: float = 10, failures: int = 0, requests: int = 100, **further: Any) -> str:
    stable = {"requests": 900, "durations_ms": {str(20 + n): 90 for n in range(10)}}
    canary = {"requests": requests, "failures": failures, "durations_ms": [20 + n % 10 for n in range(requests)]}
    return json.dumps({"at": at, "weight": weight, "stable": stable, "canary": canary, **further})


def run(tmp_path: Path, lines: list[str], *words: str) -> Result:
    file = tmp_path / "ticks.jsonl"
    file.write_text("\n".join(lines))
    return CliRunner().invoke(main, ["test", "replay", str(file), *words], env={"COLUMNS": "200"})


def test_a_good_canary_passes_and_a_bad_one_fails_at_the_tick_that_decided(tmp_path: Path) -> None:
    good = run(tmp_path, [tick(n) for n in range(60)])
    bad = run(tmp_path, [tick(n, failures=40 if n >= 30 else 0) for n in range(60)])

    assert good.exit_code == 0
    assert "pass after line 60: shown after 6,000 canary requests" in good.output
    assert bad.exit_code == 1
    assert re.search(r"fail after line 3[12]: v2 fails more often than v1", bad.output)


def test_too_little_is_inconclusive_and_says_what_is_missing(tmp_path: Path) -> None:
    found = run(tmp_path, [tick(n, requests=1) for n in range(5)])

    assert found.exit_code == 3
    assert "more canary requests to show" in found.output


def test_every_nth_verdict_is_printed_and_each_change(tmp_path: Path) -> None:
    lines = [tick(n) for n in range(60)]

    assert len(run(tmp_path, lines).output.splitlines()) == 61
    assert len(run(tmp_path, lines, "--every", "20").output.splitlines()) <= 6


def test_json_has_the_whole_evidence(tmp_path: Path) -> None:
    found = [json.loads(line) for line in run(tmp_path, [tick(1), tick(2)], "--json").output.splitlines()]

    assert [one["line"] for one in found] == [1, 2]
    assert found[-1]["evidence"]["requests"] == {"stable": 1800, "canary": 200}


def test_the_plan_s_limits_count(tmp_path: Path) -> None:
    plan = tmp_path / "canary.toml"
    plan.write_text(
        '[rollout.a]\nstages = [10]\n[rollout.a.guardrails]\np95 = { max = "10ms" }\n[rollout.b]\nstages = [10]\n'
    )
    lines = [tick(n) for n in range(20)]

    limited = run(tmp_path, lines, "a", "--plan", str(plan))
    assert limited.exit_code == 3
    assert "error after line 20: shared incident: v1 breaks the same limit" in limited.output
    assert run(tmp_path, lines, "b", "--plan", str(plan)).exit_code == 0
    assert "which rollout? The plan holds a, b" in run(tmp_path, lines, "--plan", str(plan)).output


def test_standard_input_is_a_dash() -> None:
    found = CliRunner().invoke(main, ["test", "replay", "-"], input=tick(1))

    assert found.exit_code == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: is no JSON"),
        (["[1]"], "line 1: is [1]: must be one tick, as an object"),
        ([tick(1), "", tick(1)], "line 3: at is 1: must be after the tick before it (1)"),
        (['{"at": NaN, "weight": 1, "stable": {}, "canary": {}}'], "line 1: at is nan: must be a number"),
        (['{"at": 1, "weight": 1, "stable": 3, "canary": {}}'], "line 1: stable is 3: must be a table"),
        (['{"at": 1, "weight": 1, "stable": {"durations_ms": 3}, "canary": {}}'], "line 1: stable.durations_ms is 3"),
        (['{"at": 1, "weight": 1, "stable": {"durations_ms": ["x"]}, "canary": {}}'], "has 'x': must be milliseconds"),
        (['{"at": 1, "weight": 1, "stable": {"durations_ms": {"3": 0.5}}, "canary": {}}'], "must be a whole number"),
        (["x" * (LONGEST_LINE + 1)], "line 1: has more than 1,000,000 characters"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        list(read_ticks(lines))


def test_a_file_without_ticks_is_wrong_usage(tmp_path: Path) -> None:
    found = run(tmp_path, [""])

    assert found.exit_code == 2
    assert "holds no tick" in found.output


@pytest.mark.parametrize("side", ["stable", "canary"])
def test_traffic_on_one_side_alone_decides_nothing(side: str) -> None:
    quiet = {"requests": 0}
    lines = [tick(n, **{side: quiet}) for n in range(50)]
    steps = list(replay(lines, settings_of(RolloutPlan(name="shop"), "v2")))

    assert {step.finding.verdict for step in steps} == {"inconclusive"}


def test_everybody_on_the_canary_needs_only_its_limits() -> None:
    lines = [tick(n, weight=100, stable={"requests": 0}) for n in range(3)]
    *_, last = replay(lines, settings_of(RolloutPlan(name="shop"), "v2"))

    assert last.finding.verdict == "pass"
