"""
Simulated requests of a service with two versions: who came, which version answered, whether it failed, how fast it was.

Everything is drawn in numpy from one seeded generator, some seconds at a time, because the weight of the next seconds
may depend on what was judged of those before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from canary_middleware._core.evidence.tick import GROUPS
from canary_middleware._core.plan.durations import BUCKETS, RATIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    # Of any width: 32 bits where many are summed up.
    Counts = NDArray[np.signedinteger[Any]]
    Flags = NDArray[np.bool_]

RATE: Final = 100.0
"""Requests per second, Poisson."""
MEDIAN_S: Final = 0.08
SIGMA: Final = 0.6
"""Of the logarithm of a duration, over all requests: p95 is 215 ms, p99 323 ms."""
_FIRST_LOG: Final = log(0.001)
_STEP: Final = log(RATIO)
_EXTRA_S: Final = 1.5
_BURST_S: Final = 10.0
_BETWEEN_BURSTS_S: Final = 400.0
_BURST_ERROR: Final = 0.2
_HORIZON_S: Final = 20_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """
    Whose requests are alike.

    Attributes:
        count: how many there are; each has one version at a time.
        zipf: exponent of their activity; the k-th sends in proportion to k^-zipf.
        alike: correlation between the outcomes of one user's requests: error rates are beta distributed.
        pace: standard deviation of the logarithm of the factor on a user's durations.
    """

    count: int = 2_000
    zipf: float = 0.5
    alike: float = 0.003
    pace: float = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """
    What a service is like, and what is wrong with its canary.

    Attributes:
        base: error rate of a good version.
        users: None, where each request is somebody else's.
        drifts: both versions' error rate swings by ± 80 % and their durations by ± 30 %, in 15 and 20 minutes.
        bursts: both versions fail 20 % for 10 s, every 400 s on average.
        error: error rate of the canary from the onset on; None, where it is as good as stable.
        slower: factor on its durations.
        hanging: share of its requests that take 1.5 s more.
        onset_s: seconds after which the canary is bad.
    """

    base: float = 0.005
    users: Users | None = None
    drifts: bool = False
    bursts: bool = False
    error: float | None = None
    slower: float = 1.0
    hanging: float = 0.0
    onset_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """
    Some seconds of traffic: one element for each request, in order of time.

    Attributes:
        weights: share of the canary in each second.
        second: of the piece, from 0.
        canary, failed: whether the request was the canary's, and whether it failed.
        bucket: of ``_core.plan.durations``.
        group: of identities, 0 … 63.
        is_new: whether its identity comes for the first time.
    """

    start_s: int
    weights: Numbers
    second: Counts
    canary: Flags
    failed: Flags
    bucket: Counts
    group: Counts
    is_new: Flags


class Stream:
    """The traffic of one rollout, from its first second on."""

    def __init__(self, traffic: Traffic, seed: Sequence[int]) -> None:
        self._traffic = traffic
        self._rng = np.random.default_rng(seed)
        self._now_s = 0
        self._phases = self._rng.uniform(0.0, 2.0 * pi, 2)
        gaps = self._rng.exponential(_BETWEEN_BURSTS_S, int(3 * _HORIZON_S / _BETWEEN_BURSTS_S))
        self._bursts = np.cumsum(gaps)
        self._crowd = None if traffic.users is None else _Crowd(traffic.users, traffic.base, self._rng)

    def draw(self, weights: Numbers) -> Piece:
        """The next seconds, one for each weight (0 … 1)."""
        traffic, rng = self._traffic, self._rng
        per_second = rng.poisson(RATE, len(weights))
        second = np.repeat(np.arange(len(weights)), per_second)
        total = len(second)
        error: Any = traffic.base
        if self._crowd is None:
            canary = rng.random(total) < weights[second]
            group = rng.integers(0, GROUPS, total)
            is_new = np.ones(total, dtype=np.bool_)
            log_s = rng.normal(log(MEDIAN_S), SIGMA, total)
        else:
            who = self._crowd.come(total)
            canary = self._crowd.ring[who] < weights[second]
            group = self._crowd.group[who]
            is_new = self._crowd.meet(who)
            error = self._crowd.error[who]
            log_s = rng.normal(log(MEDIAN_S), self._crowd.sigma, total) + self._crowd.pace[who]
        at_s = self._now_s + second
        error, log_s = self._weather(at_s, error, log_s)
        bad = canary & (at_s >= traffic.onset_s)
        failed = rng.random(total) < self._harm(bad, error)
        piece = Piece(
            start_s=self._now_s,
            weights=weights,
            second=second,
            canary=canary,
            failed=failed,
            bucket=buckets(self._delay(bad, log_s)),
            group=group,
            is_new=is_new,
        )
        self._now_s += len(weights)
        return piece

    def _weather(self, at_s: Counts, error: Any, log_s: Numbers) -> tuple[Any, Numbers]:
        """What befalls both versions."""
        traffic = self._traffic
        if traffic.drifts:
            error = error * (1.0 + 0.8 * np.sin(2.0 * pi * at_s / 900.0 + self._phases[0]))
            log_s = log_s + np.log1p(0.3 * np.sin(2.0 * pi * at_s / 1200.0 + self._phases[1]))
        if traffic.bursts:
            last = np.searchsorted(self._bursts, at_s, side="right") - 1
            began_s = np.where(last >= 0, self._bursts[last], -_HORIZON_S)
            error = np.where(at_s - began_s < _BURST_S, _BURST_ERROR, error)
        return error, log_s

    def _harm(self, bad: Flags, error: Any) -> Any:
        traffic = self._traffic
        if traffic.error is None:
            return error
        return np.where(bad, np.minimum(error * (traffic.error / traffic.base), 1.0), error)

    def _delay(self, bad: Flags, log_s: Numbers) -> Numbers:
        traffic = self._traffic
        if traffic.slower != 1.0:
            log_s = log_s + bad * log(traffic.slower)
        if traffic.hanging:
            hangs = bad & (self._rng.random(len(bad)) < traffic.hanging)
            log_s = np.where(hangs, np.log(np.exp(log_s) + _EXTRA_S), log_s)
        return log_s


class _Crowd:
    """The users of one rollout: how often they come, where they are on the ring, what befalls them."""

    def __init__(self, users: Users, base: float, rng: np.random.Generator) -> None:
        self._rng = rng
        activity = np.arange(1, users.count + 1, dtype=np.float64) ** -users.zipf
        self._until = np.cumsum(activity / activity.sum())
        self._until[-1] = 1.0
        self._seen = np.zeros(users.count, dtype=np.bool_)
        certainty = 1.0 / users.alike - 1.0
        self.error = rng.beta(base * certainty, (1.0 - base) * certainty, users.count)
        self.pace = rng.normal(0.0, users.pace, users.count)
        self.sigma = (SIGMA**2 - users.pace**2) ** 0.5
        self.ring = rng.random(users.count)
        self.group = rng.integers(0, GROUPS, users.count)

    def come(self, total: int) -> Counts:
        return np.searchsorted(self._until, self._rng.random(total), side="right")

    def meet(self, who: Counts) -> Flags:
        """Which of these requests are the first of their user."""
        unseen = np.flatnonzero(~self._seen[who])
        _, first = np.unique(who[unseen], return_index=True)
        is_new = np.zeros(len(who), dtype=np.bool_)
        is_new[unseen[first]] = True
        self._seen[who[unseen]] = True
        return is_new


def buckets(log_s: Numbers) -> Counts:
    """``_core.plan.durations.bucket`` of each duration, which is given by its logarithm."""
    return np.clip(np.ceil((log_s - _FIRST_LOG) / _STEP), 0, BUCKETS - 1).astype(np.int64)
