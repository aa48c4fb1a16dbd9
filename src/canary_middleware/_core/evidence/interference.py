"""
Whether stable itself has become worse since the rollout began, which no comparison of the versions can see.

Both run in one process: a canary that burns the processor, holds the interpreter's lock or leaks slows stable too. A
tick counts as one outcome, however many requests it holds, because they share their fate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..plan.durations import upper_s
from .limit import Limit
from .onset import reserve
from .past import Past

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .tick import Side

ALPHA: Final = 0.001
BUCKETS_ABOVE: Final = 17
"""Buckets that are 50 % slower: 1.1^(17/4) = 1.499."""
LEAST: Final = 300.0
"""Requests of stable before the rollout that its own past must hold."""
_OVER: Final = 20.0
_LEAST_IN_TICK: Final = 20
_SLOW_TICKS: Final = 0.05  # ticks that may have a median so high by bad luck


class Interference:
    """
    Stable now against stable before.

    Args:
        state: to go on from.
    """

    __slots__ = ("_before", "_limit", "_seen", "is_felt")

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._before = Past(None if state is None else state["before"])
        self._limit = Limit(_SLOW_TICKS, None if state is None else state["limit"])
        self._seen = 0.0 if state is None else float(state["seen"])
        self.is_felt = state is not None and bool(state["is_felt"])
        """Whether stable is slower than it was, 999 to 1; until hardly anything speaks for it any more."""

    def before(self, stable: Side) -> None:
        """What stable did while nobody had the canary."""
        self._before.add(stable)

    def add(self, stable: Side) -> None:
        """Take in a tick during the rollout."""
        if self._before.requests < LEAST or stable.requests < _LEAST_IN_TICK:
            return
        cut = self._before.quantile(0.5) + BUCKETS_ABOVE
        slow = sum(n for index, n in stable.durations.items() if index > cut)
        evidence = self._limit.add(int(2 * slow >= stable.requests), 1, 1.0, reserve(self._seen))
        self.is_felt = evidence >= 1.0 / ALPHA or (self.is_felt and evidence >= _OVER)
        self._seen += 1.0

    @property
    def evidence(self) -> float:
        """The e-value at present."""
        return self._limit.evidence

    @property
    def median_before_s(self) -> float:
        """What half of stable's requests stayed below before the rollout, in seconds."""
        return upper_s(self._before.quantile(0.5))

    def state(self) -> dict[str, Any]:
        """What another goes on from."""
        return {
            "before": self._before.state(),
            "limit": self._limit.state(),
            "seen": self._seen,
            "is_felt": self.is_felt,
        }
