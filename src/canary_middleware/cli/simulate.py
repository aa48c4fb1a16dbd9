"""
``canary simulate``: what a plan would do with given traffic, before a single user sees it.
"""

from __future__ import annotations

import time
from random import Random
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .._control.simulation import HEALTHY, Traffic, regressions, simulate
from .._core.plan.fields import parse_duration
from ..errors import ConfigError
from .session import FINE, verb

if TYPE_CHECKING:
    from .._control.simulation import Outcome, Regression
    from .._core.plan.schema import RolloutPlan
    from .session import Session


@click.command("simulate")
@click.argument("rollout", required=False)
@click.option("--rps", type=click.FloatRange(0, min_open=True), required=True, help="Requests a second, both versions.")
@click.option("--error-rate", type=click.FloatRange(0, 1, max_open=True), default=0.005, show_default=True)
@click.option("--p50", default="80ms", show_default=True, help="Median duration of stable's requests.")
@click.option("--p95", default="200ms", show_default=True)
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True, help="Rollouts of each kind.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--max-time", default="60s", show_default=True, help="Fewer rollouts where they would take longer.")
@verb
def simulation(
    session: Session,
    rollout: str | None,
    rps: float,
    error_rate: float,
    p50: str,
    p95: str,
    runs: int,
    seed: int,
    max_time: str,
) -> None:
    """
    Predict from a plan and traffic: false rollbacks, time to promotion, and how soon each kind of regression is caught.

    The real judge on simulated, independent requests; those of real users are more alike, and take longer.
    """
    plan = _plan(session, rollout)
    traffic = Traffic(rps, error_rate, parse_duration(p50, "--p50"), parse_duration(p95, "--p95"))
    if not 0 < traffic.p50_s < traffic.p95_s:
        raise ConfigError(f"--p50 is {p50}, --p95 is {p95}: the median must be above 0 and below the 95 % quantile")
    kinds = (HEALTHY, *regressions(traffic))
    deadline = time.monotonic() + parse_duration(max_time, "--max-time")
    found: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds):
        # What is left of the time is for all kinds that are left.
        share = (deadline - time.monotonic()) / (len(kinds) - number)
        if session.console.is_terminal and not session.as_json:
            session.console.print(Text(f"simulating: {kind.name} …", "dim"), end="\r")
        found.append(_summary(kind, _outcomes(plan, traffic, kind, runs, seed, share)))
    session.answer({"rollout": plan.name, "traffic": traffic._asdict(), "kinds": found}, lambda: _screen(plan, found))
    raise SystemExit(FINE)


def _outcomes(
    plan: RolloutPlan, traffic: Traffic, kind: Regression, runs: int, seed: int, seconds: float
) -> list[Outcome]:
    until = time.monotonic() + seconds
    done: list[Outcome] = []
    while len(done) < runs and (not done or time.monotonic() < until):
        chance = Random(f"{seed} {kind.name} {len(done)}")  # noqa: S311 - the same answer for the same seed
        done.append(simulate(plan, traffic, kind, chance))
    return done


def _plan(session: Session, rollout: str | None) -> RolloutPlan:
    whole = session.plan
    plan = session.rollout(rollout).plan if whole is None else None
    if whole is not None:
        named = [one for one in whole.rollouts if rollout in (None, one.name)]
        if len(named) != 1:
            names = ", ".join(one.name for one in whole.rollouts)
            raise ConfigError(f"which rollout? The plan holds {names}: put its name behind the verb")
        plan = named[0]
    assert plan is not None
    if not plan.stages:
        raise ConfigError(f"{plan.name!r} has no stages: there is nothing to simulate")
    return plan


def _summary(kind: Regression, outcomes: list[Outcome]) -> dict[str, Any]:
    wanted = "completed" if kind is HEALTHY else "rolled_back"
    hits = [one for one in outcomes if one.end == wanted]
    share = {end: sum(one.end == end for one in outcomes) / len(outcomes) for end in _ENDS}
    return {
        "kind": kind.name,
        "runs": len(outcomes),
        **share,
        "canary_requests": _spread([one.canary_requests for one in hits]),
        "seconds": _spread([one.seconds for one in hits]),
    }


_ENDS: Final = ("completed", "rolled_back", "waiting")


def _spread(values: list[int] | list[float]) -> dict[str, float] | None:
    """Median and 90 %, or None where there are none."""
    if not values:
        return None
    high = quantiles(values, n=10)[-1] if len(values) > 1 else values[0]
    return {"median": median(values), "p90": high}


def _screen(plan: RolloutPlan, found: list[dict[str, Any]]) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(f"If {plan.canaries[0][0]} is …")
    for name in ("promoted", "rolled back", "asks a person", "canary requests", "90 %", "time", "90 %", "runs"):
        table.add_column(name, justify="right")
    for one in found:
        requests, seconds = one["canary_requests"], one["seconds"]
        table.add_row(
            one["kind"],
            *(f"{one[end]:.0%}" for end in _ENDS),
            *(("–", "–") if requests is None else (f"{requests['median']:,.0f}", f"{requests['p90']:,.0f}")),
            *(("–", "–") if seconds is None else (_time(seconds["median"]), _time(seconds["p90"]))),
            str(one["runs"]),
        )
    return Group(table, Text(), *(Text(line) for line in _sentences(plan, found)))


def _sentences(plan: RolloutPlan, found: list[dict[str, Any]]) -> list[str]:
    healthy, *others = found
    name = plan.canaries[0][0]
    lines = [f"A healthy {name} is rolled back in {healthy['rolled_back']:.0%} of {healthy['runs']} runs."]
    if healthy["waiting"]:
        lines.append(
            f"In {healthy['waiting']:.0%} the evidence is not enough within four times a stage's duration: give it "
            "more traffic, time or margin, or move it by hand (`canary next`)."
        )
    missed = [one["kind"] for one in others if one["completed"] > 0.01]
    if missed:
        lines.append(f"These may reach everybody: {', '.join(missed)}. A smaller margin or longer stages catch more.")
    return lines


def _time(seconds: float) -> str:
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
