"""
What a plan would do with given traffic: the real judge on simulated requests, many times over.

Requests are independent and as alike from second to second as chance allows; real ones are not quite, so real rollouts
take longer. The randomness is handed in: the same seed gives the same answer.
"""

from __future__ import annotations

from math import erf, log, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

from .._core.assignment.bucketing import BUCKETS as EVERYBODY
from .._core.evidence import Judge, Side, Tick, settings_of
from .._core.plan.durations import BOUNDS_S, BUCKETS, bucket

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from .._core.plan.schema import RolloutPlan

_TICKS_IN_STAGE: Final = 600
_PATIENCE: Final = 4.0
"""A stage is given up, and a person asked, after so many times its duration."""
_LEAST_PATIENCE_S: Final = 3600.0
_BEFORE_TICKS: Final = 60
_Z95: Final = 1.6449


class Traffic(NamedTuple):
    """
    What stable does.

    Attributes:
        rps: requests a second of both versions together, > 0.
        error_rate: a fraction.
        p50_s, p95_s: of a lognormal duration, 0 < p50 < p95.
    """

    rps: float
    error_rate: float = 0.005
    p50_s: float = 0.08
    p95_s: float = 0.2


class Regression(NamedTuple):
    """
    How the canary differs.

    Attributes:
        error_rate: the canary's, or None for stable's.
        slower: factor on its durations.
        stalled: share of its requests that take 1.5 s longer.
    """

    name: str
    error_rate: float | None = None
    slower: float = 1.0
    stalled: float = 0.0


class Outcome(NamedTuple):
    """
    How one rollout ended.

    Attributes:
        end: ``completed``, ``rolled_back``, or ``waiting`` for a person.
        canary_requests, seconds: until then.
    """

    end: str
    canary_requests: int
    seconds: float


HEALTHY: Final = Regression("healthy")


def regressions(traffic: Traffic) -> tuple[Regression, ...]:
    """What is looked for: errors doubled, to 5 and 20 %, slower by 10 % to double, some requests stalled."""
    rates = [("errors doubled", 2 * traffic.error_rate), ("errors 5 %", 0.05), ("errors 20 %", 0.2)]
    worse = [Regression(name, error_rate=rate) for name, rate in rates if rate > traffic.error_rate]
    slower = [Regression(f"{(by - 1) * 100:.0f} % slower", slower=by) for by in (1.1, 1.25, 2.0)]
    return (*worse, *slower, Regression("8 % of requests + 1.5 s", stalled=0.08))


def simulate(plan: RolloutPlan, traffic: Traffic, regression: Regression, chance: Random) -> Outcome:
    """
    One rollout of *plan*'s first canary from its start on. Approvals come at once, and the calendar is always open.

    A stage without a duration ends as soon as the evidence is there.
    """
    version = plan.canaries[0][0]
    judge = Judge(settings_of(plan, version, 0))
    weights = [stage.weight_ppm for stage in plan.stages]
    compared = [n for n, weight in enumerate(weights) if 0 < weight < EVERYBODY]
    stable, canary = _shape(traffic, 1.0, 0.0), _shape(traffic, regression.slower, regression.stalled)
    bad = traffic.error_rate if regression.error_rate is None else regression.error_rate
    now, served = 0.0, 0
    for _ in range(_BEFORE_TICKS):
        judge.observe(Tick(now, 0, _side(chance, traffic.rps, traffic.error_rate, stable), Side()))
        now += 1.0
    began = now
    for number, stage in enumerate(plan.stages):
        duration = stage.duration_s if stage.duration_s is not None else plan.duration_s or 0.0
        step = max(1.0, duration / _TICKS_IN_STAGE)
        judge = Judge(settings_of(plan, version, number), judge.state())
        judge.enter(max(0, sum(n <= number for n in compared) - 1), len(compared), compares=number in compared)
        entered = now
        while True:
            share = stage.weight_ppm / EVERYBODY
            sides = (
                _side(chance, traffic.rps * step * (1.0 - share), traffic.error_rate, stable),
                _side(chance, traffic.rps * step * share, bad, canary),
            )
            judge.observe(Tick(now, stage.weight_ppm, *sides, step))
            now += step
            served += sides[1].requests
            if (judge.is_condemned or judge.firing_since) and judge.finding().verdict == "fail":
                return Outcome("rolled_back", served, now - began)
            if now - entered >= duration and (not stage.weight_ppm or judge.finding().verdict == "pass"):
                break
            if now - entered >= max(_PATIENCE * duration, _LEAST_PATIENCE_S):
                return Outcome("waiting", served, now - began)
    return Outcome("completed", served, now - began + plan.bake_s)


# -- drawing ---------------------------------------------------------------------------------------------------------


def _shape(traffic: Traffic, slower: float, stalled: float) -> list[tuple[int, float]]:
    """(bucket, share of the requests in it and all later ones that it holds): a multinomial, drawn one by one."""
    sigma = max(log(traffic.p95_s / traffic.p50_s) / _Z95, 1e-6)
    shares = [0.0] * BUCKETS
    below = 0.0
    for index in range(BUCKETS):
        upper = 1.0
        if index < len(BOUNDS_S):
            upper = 0.5 * (1.0 + erf(log(BOUNDS_S[index] / (traffic.p50_s * slower)) / (sigma * sqrt(2.0))))
        shares[index] += (upper - below) * (1.0 - stalled)
        below = upper
    if stalled:
        shares[bucket(traffic.p50_s * slower + 1.5)] += stalled
    left, found = 1.0, []
    for index, share in enumerate(shares):
        if share > 1e-9:
            found.append((index, min(1.0, share / left) if left > 0.0 else 1.0))
            left -= share
    found[-1] = (found[-1][0], 1.0)
    return found


def _side(chance: Random, requests: float, error_rate: float, shape: Sequence[tuple[int, float]]) -> Side:
    """One tick of one version, of which *requests* are expected."""
    n = _poisson(chance, requests)
    durations: dict[int, int] = {}
    left = n
    for index, share in shape:
        if not left:
            break
        drawn = _binomial(chance, left, share)
        if drawn:
            durations[index] = drawn
            left -= drawn
    return Side(n, _binomial(chance, n, error_rate), 0, durations)


_FEW: Final = 40.0


def _binomial(chance: Random, n: int, p: float) -> int:
    """How many of *n*, each with probability *p*: exact where few are expected, by a normal curve where many are."""
    if n <= 0 or p <= 0.0:
        return 0
    if p >= 1.0:
        return n
    if p > 0.5:
        return n - _binomial(chance, n, 1.0 - p)
    if n * p > _FEW:
        return min(n, max(0, round(chance.gauss(n * p, sqrt(n * p * (1.0 - p))))))
    # Gaps between successes are geometric.
    found, at, scale = 0, 0, log(1.0 - p)
    while True:
        at += int(log(1.0 - chance.random()) / scale) + 1
        if at > n:
            return found
        found += 1


def _poisson(chance: Random, mean: float) -> int:
    if mean > _FEW:
        return max(0, round(chance.gauss(mean, sqrt(mean))))
    found, at = 0, chance.expovariate(1.0)
    while at < mean:
        found += 1
        at += chance.expovariate(1.0)
    return found
