"""A plan is tried on simulated traffic before a single user sees it; the same seed gives the same answer."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from canary_middleware._control.simulation import (
    HEALTHY,
    Regression,
    Traffic,
    _binomial,
    _poisson,
    _shape,
    regressions,
    simulate,
)
from canary_middleware._core.plan.schema import RolloutPlan, parse
from canary_middleware.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

PLAN = """
[rollout.shop]
stages = [10, 50, 100]
duration = "5m"
bake = "1m"
[rollout.shop.guardrails]
error_rate = { max = 0.05 }
"""


def plan(**fields: Any) -> RolloutPlan:
    return parse({"rollout": {"shop": {"stages": [10, 50, 100], "duration": "5m", "bake": "1m", **fields}}}).rollouts[0]


def test_a_healthy_canary_completes_in_the_plan_s_time() -> None:
    outcome = simulate(plan(), Traffic(300), HEALTHY, Random(1))

    assert outcome.end == "completed"
    assert 15 * 60 + 60 <= outcome.seconds < 20 * 60
    assert outcome.canary_requests > 300 * 300


@pytest.mark.parametrize("regression", regressions(Traffic(300)), ids=lambda one: one.name)
def test_each_kind_of_regression_is_caught(regression: Regression) -> None:
    assert simulate(plan(), Traffic(300), regression, Random(2)).end == "rolled_back"


def test_a_guardrail_catches_what_it_is_for() -> None:
    limited = plan(guardrails={"error_rate": {"max": 0.05}})
    outcome = simulate(limited, Traffic(100), Regression("all", error_rate=0.9), Random(3))

    assert outcome.end == "rolled_back"
    assert outcome.canary_requests < 40


def test_too_little_traffic_ends_with_a_person() -> None:
    outcome = simulate(plan(), Traffic(0.05), HEALTHY, Random(4))

    assert outcome.end == "waiting"
    assert outcome.seconds >= 3600


def test_a_stage_at_nothing_only_takes_its_time() -> None:
    assert simulate(plan(stages=[0, 50], bake="0s"), Traffic(300), HEALTHY, Random(5)).end == "completed"


def test_what_is_no_regression_is_not_looked_for() -> None:
    assert "errors 5 %" not in [one.name for one in regressions(Traffic(10, error_rate=0.06))]


@pytest.mark.parametrize(("n", "p"), [(10, 0.0), (10, 1.0), (50, 0.1), (50, 0.9), (5000, 0.02), (5000, 0.4)])
def test_draws_are_binomial(n: int, p: float) -> None:
    chance = Random(6)
    drawn = [_binomial(chance, n, p) for _ in range(2000)]
    mean = sum(drawn) / len(drawn)
    spread = sum((one - mean) ** 2 for one in drawn) / len(drawn)

    assert mean == pytest.approx(n * p, abs=4 * (n * p * (1 - p) / 2000) ** 0.5 + 1e-9)
    assert spread == pytest.approx(n * p * (1 - p), rel=0.2)
    assert all(0 <= one <= n for one in drawn)


@pytest.mark.parametrize("mean", [0.0, 0.3, 7.0, 400.0])
def test_requests_are_poisson(mean: float) -> None:
    chance = Random(7)
    drawn = [_poisson(chance, mean) for _ in range(3000)]

    assert sum(drawn) / len(drawn) == pytest.approx(mean, abs=4 * (mean / 3000) ** 0.5 + 1e-9)


def test_the_shape_of_durations_uses_up_all_requests() -> None:
    left = 1.0
    for _, share in _shape(Traffic(1), 1.25, 0.08):
        left *= 1 - share

    assert left == pytest.approx(0.0, abs=1e-12)


def run(tmp_path: Path, *words: str) -> Result:
    file = tmp_path / "canary.toml"
    file.write_text(PLAN)
    return CliRunner().invoke(main, ["simulate", "--plan", str(file), *words], env={"COLUMNS": "140"})


def test_the_command_shows_each_kind_and_a_sentence(tmp_path: Path) -> None:
    found = run(tmp_path, "--rps", "200", "--runs", "2")

    assert found.exit_code == 0, found.output
    assert "If v2 is …" in found.output
    assert "8 % of requests + 1.5 s" in found.output
    assert "A healthy v2 is rolled back in 0% of 2 runs." in found.output


def test_the_same_seed_gives_the_same_answer_as_json(tmp_path: Path) -> None:
    first, second = (run(tmp_path, "--rps", "200", "--runs", "1", "--seed", "3", "--json").stdout for _ in range(2))
    kinds = json.loads(first)["kinds"]

    assert first == second
    assert kinds[0]["kind"] == "healthy"
    assert kinds[0]["completed"] == 1.0
    assert kinds[1]["canary_requests"]["median"] > 0


def test_traffic_that_is_too_small_is_told_with_what_to_do(tmp_path: Path) -> None:
    found = run(tmp_path, "--rps", "0.01", "--runs", "1")

    assert "the evidence is not enough within four times a stage's duration" in found.output
    assert "canary next" in found.output


def test_it_ends_in_time(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "--rps", "200", "--runs", "1000", "--max-time", "1s", "--json").stdout)

    assert all(1 <= kind["runs"] < 1000 for kind in found["kinds"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rps", "0"], "Invalid value for '--rps'"),
        (["--rps", "1", "--p50", "3s", "--p95", "2s"], "the median must be above 0 and below the 95 % quantile"),
        (["--rps", "1", "other"], "which rollout? The plan holds shop"),
    ],
)
def test_wrong_usage_is_named(tmp_path: Path, words: list[str], message: str) -> None:
    found = run(tmp_path, *words)

    assert found.exit_code == 2
    assert message in found.output


def test_a_plan_without_stages_has_nothing_to_simulate(tmp_path: Path) -> None:
    file = tmp_path / "canary.toml"
    file.write_text("[rollout.shop]\nweight = 5\n")
    found = CliRunner().invoke(main, ["simulate", "--plan", str(file), "--rps", "1"])

    assert "has no stages: there is nothing to simulate" in found.output
