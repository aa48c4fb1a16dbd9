"""
Rules that people use instead, re-implemented to compare: each says in which seconds it would roll back.

They are given the whole rollout at once, but look in each second at nothing that comes later. They are one-sided: a
better canary alarms nobody. All but Flagger's wait for 100 canary requests.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from canary_middleware._core.plan.durations import BUCKETS, bucket

from .seen import CANARY, STABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .seen import Seen
    from .traffic import Counts, Flags, Numbers

LEAST: Final = 100
_P_01: Final = 2.3263
"""Standard deviations of a one-sided p < .01."""
_NAIVE_S: Final = 120
_NAIVE_P95_S: Final = 2.0
_NAIVE_LEAST: Final = 1_000
_TEN_PERCENT: Final = 4
"""In buckets of durations."""
_FLAGGER_S: Final = 60
_FLAGGER_P95_S: Final = 0.5
_LOOK_S: Final = 10
_FAILING: Final = 0.002
_SLOWER: Final = 0.01
"""What mSPRT looks for: differences in failures of 0.2 percentage points or so, in slowness of 1."""
_ALPHA: Final = 0.005
_RANKS_S: Final = 300
_P_RANKS: Final = 3.14
"""Standard deviations of p < .01 shared out over two tests in each of six windows, one-sided."""


def naive(seen: Seen) -> Counts:
    """Over the last two minutes: error rate > 5 %, or p95 > 2 s."""
    return np.flatnonzero(_naive(seen, 0.05))


def naive_availability(seen: Seen) -> Counts:
    """The same with availability < 99 %, taken as the share of requests that did not fail."""
    return np.flatnonzero(_naive(seen, 0.01))


def _naive(seen: Seen, error: float) -> Flags:
    requests, failures = (_over(counts[:, CANARY], _NAIVE_S) for counts in (seen.requests, seen.failures))
    slow = _over(seen.durations[:, CANARY, bucket(_NAIVE_P95_S) + 1 :].sum(axis=1), _NAIVE_S)
    return _enough(seen) & ((failures > error * requests) | (slow > 0.05 * requests))


def flagger_like(seen: Seen) -> Counts:
    """Each minute: in this minute the error rate > 1 %, or p95 > 500 ms; one failed check is enough."""
    requests, failures = (_windows(counts[:, CANARY], _FLAGGER_S) for counts in (seen.requests, seen.failures))
    slow = _windows(seen.durations[:, CANARY, bucket(_FLAGGER_P95_S) + 1 :].sum(axis=1), _FLAGGER_S)
    return _at_end(_FLAGGER_S, (failures > 0.01 * requests) | (slow > 0.05 * requests))


def z_test(seen: Seen) -> Counts:
    """Every ten seconds, on all counts so far: share of failures, and share above stable's p95, p < .01 each."""
    requests, failures, durations = (
        np.cumsum(_windows(counts, _LOOK_S), axis=0) for counts in (seen.requests, seen.failures, seen.durations)
    )
    fires = (_z(failures, requests) > _P_01) | (_z(_slow(durations), requests) > _P_01)
    return _at_end(_LOOK_S, fires & (requests[:, CANARY] >= LEAST))


def _z(events: Counts, requests: Counts) -> Numbers:
    """Two-proportion z of the canary's share above stable's; 0 where there is nothing to compare."""
    share = _ratio(events.sum(axis=1), requests.sum(axis=1))
    variance = share * (1.0 - share) * _ratio(1.0, requests).sum(axis=1)
    return _ratio(_difference(events, requests), np.sqrt(variance))


def m_sprt(seen: Seen) -> Counts:
    """Every second, on all counts so far: mixture likelihood ratio of these two differences, normal, .01 for both."""
    requests, failures, durations = (
        np.cumsum(counts, axis=0, dtype=counts.dtype) for counts in (seen.requests, seen.failures, seen.durations)
    )
    slow = _slow(durations)
    fired = _exceeds(failures, requests, _FAILING) | _exceeds(slow, requests, _SLOWER)
    return np.flatnonzero(_enough(seen) & fired)


def _exceeds(events: Counts, requests: Counts, mixture: float) -> Flags:
    """Whether the likelihood ratio is beyond 1/α; *mixture* is the standard deviation of the difference looked for."""
    share = _ratio(events.sum(axis=1), requests.sum(axis=1))
    variance = share * (1.0 - share) * _ratio(1.0, requests).sum(axis=1)
    difference = _difference(events, requests)
    wider = variance + mixture**2
    gain = _ratio(difference**2 * mixture**2, 2.0 * variance * wider) + 0.5 * np.log(_ratio(variance, wider) + 1e-300)
    return (difference > 0.0) & (gain >= -log(_ALPHA))


def mann_whitney(seen: Seen) -> Counts:
    """Every five minutes, on these alone: durations by Mann-Whitney, failures by z; p < .01 over all windows."""
    requests, failures = (_windows(counts, _RANKS_S) for counts in (seen.requests, seen.failures))
    ranks = _rank_z(_windows(seen.durations, _RANKS_S))
    return _at_end(_RANKS_S, (ranks > _P_RANKS) | (_z(failures, requests) > _P_RANKS))


def _rank_z(durations: Counts) -> Numbers:
    """Mann-Whitney's U of the canary as a normal deviate, corrected for ties; *durations* is windows × 2 × buckets."""
    stable, canary = (durations[:, side].astype(np.float64) for side in (STABLE, CANARY))
    n_s, n_c = stable.sum(axis=1), canary.sum(axis=1)
    n, both = n_s + n_c, stable + canary
    u = (canary * (np.cumsum(stable, axis=1) - stable / 2.0)).sum(axis=1)
    ties = _ratio((both**3 - both).sum(axis=1), n * (n - 1.0))
    variance = n_s * n_c / 12.0 * (n + 1.0 - ties)
    return _ratio(u - n_s * n_c / 2.0, np.sqrt(np.maximum(variance, 0.0)))


def _slow(durations: Counts) -> Counts:
    """Requests of both versions above stable's p95; *durations* are looks × 2 × buckets, all since the start."""
    upto = np.cumsum(durations, axis=2, dtype=durations.dtype)
    total = upto[:, :, -1]
    quantile = (upto[:, STABLE] < 0.95 * total[:, STABLE, None]).sum(axis=1).clip(max=BUCKETS - 1)
    return total - upto[np.arange(len(quantile)), :, quantile]


def _difference(events: Counts, requests: Counts) -> Numbers:
    shares = _ratio(events, requests)
    return shares[:, CANARY] - shares[:, STABLE]


def _ratio(above: Any, below: Any) -> Numbers:
    """Quotients, 0 where there is nothing to divide by."""
    below = np.asarray(below, dtype=np.float64)
    quotients: Numbers = np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)
    return quotients


def _over(counts: Counts, seconds: int) -> Counts:
    """Sums of the last *seconds*, in each second."""
    sums = np.cumsum(counts)
    sums[seconds:] -= sums[:-seconds].copy()
    return sums


def _windows(counts: Counts, seconds: int) -> Counts:
    """Sums of one window after the other; an unfinished one at the end is left out."""
    whole = len(counts) // seconds
    sums: Counts = counts[: whole * seconds].reshape(whole, seconds, *counts.shape[1:]).sum(axis=1)
    return sums


def _enough(seen: Seen) -> Flags:
    return np.cumsum(seen.requests[:, CANARY]) >= LEAST


def _at_end(seconds: int, fires: Flags) -> Counts:
    """The seconds in which the windows that fire end."""
    return (np.flatnonzero(fires) + 1) * seconds - 1


RULES: Final[Mapping[str, Callable[[Seen], Counts]]] = {
    "naive": naive,
    "naive with availability": naive_availability,
    "Flagger-like": flagger_like,
    "z-test": z_test,
    "mSPRT-like": m_sprt,
    "Mann-Whitney": mann_whitney,
}


def naive_promotes(seen: Seen) -> bool:
    """
    Whether the naive thresholds promote: in each stage, from 1,000 canary requests on, there is a second at which its
    error rate is less than 0.5 points above stable's and its p95 less than 10 %; and no second that rolls back.
    """
    borders = np.flatnonzero(np.diff(seen.weights)) + 1
    stages = zip(*(np.split(counts, borders) for counts in (seen.requests, seen.failures, seen.durations)), strict=True)
    return not naive(seen).size and all(_looks_good(*counts) for counts in stages)


def _looks_good(*counts: Counts) -> bool:
    requests, failures, durations = (np.cumsum(part, axis=0) for part in counts)
    upto = np.cumsum(durations, axis=2)
    p95 = (upto < 0.95 * upto[:, :, -1:]).sum(axis=2)
    is_near = (_difference(failures, requests) < 0.005) & (p95[:, CANARY] < p95[:, STABLE] + _TEN_PERCENT)
    return bool((is_near & (requests[:, CANARY] >= _NAIVE_LEAST)).any())


def flagger_promotes(seen: Seen) -> bool:
    """Flagger promotes what none of its checks has failed."""
    return not flagger_like(seen).size
