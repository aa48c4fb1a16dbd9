"""
Whether a version breaks an absolute limit, by the counts of the whole fleet.

The same bet as a guardrail's in each process (``core.wager``), taken tick by tick.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Final

from ..plan.durations import bucket
from .onset import Onset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..plan.schema import Criterion
    from .tick import Side

# From the limit to everything, evenly in proportion; not 100 %, where a single success would lose everything.
_EXPONENTS: Final = (0.9, 0.75, 0.5, 0.25, 0.02)
_MOST: Final = 1e4  # above every threshold, and not so far that an incident that is over fires for an hour
_SMALLEST: Final = 1e-6
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Limit:
    """
    The evidence that more than a given share of requests is bad.

    Args:
        share: what is still right, 0 ≤ share < 1.
        state: to go on from.
    """

    __slots__ = ("_logs", "_onset", "bad", "requests")

    def __init__(self, share: float, state: Sequence[float] | None = None) -> None:
        q = min(max(share, _SMALLEST), 1.0 - _SMALLEST)
        shares = [q**exponent for exponent in _EXPONENTS]
        self._logs = tuple((log(p / q), log((1.0 - p) / (1.0 - q))) for p in shares)
        self.bad, self.requests = (0, 0) if state is None else (int(state[0]), int(state[1]))
        self._onset = Onset(len(shares), None if state is None else state[2:], most=_MOST)

    @property
    def evidence(self) -> float:
        """The e-value at present."""
        return self._onset.evidence

    def add(self, bad: int, requests: int, phi: float, kept: float) -> float:
        """Take in a tick, of which a φth counts. Returns the e-value."""
        self.bad += bad
        self.requests += requests
        good = requests - bad
        return self._onset.bet([(bad * won + good * lost) / phi for won, lost in self._logs], kept)

    def state(self) -> list[float]:
        """What another goes on from."""
        return [self.bad, self.requests, *self._onset.state()]


def share_of(criterion: Criterion) -> float | None:
    """The share of bad requests that an absolute limit lets pass; None where *criterion* is none."""
    if criterion.metric in QUANTILES and criterion.limit("max") is not None:
        return 1.0 - QUANTILES[criterion.metric]
    if criterion.metric == "error_rate":
        return criterion.limit("max")
    least = criterion.limit("min") if criterion.metric == "availability" else None
    return None if least is None else 1.0 - least


def bad_of(criterion: Criterion, side: Side) -> int:
    """How many of *side*'s requests count against *criterion*."""
    if criterion.metric == "error_rate":
        return side.failures
    if criterion.metric == "availability":
        return side.unavailable
    slowest = bucket(criterion.limit("max") or 0.0)
    return sum(n for index, n in side.durations.items() if index > slowest)
