"""
How stable did lately: durations and failures that are slowly forgotten, to choose bets from before a tick is seen.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from math import exp
from typing import TYPE_CHECKING, Any, Final

from ..plan.durations import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .tick import Side

MEMORY: Final = 20_000.0
"""Requests after which what was seen has 1/e of its weight."""
_HEAVIEST: Final = 1e100
_LONGEST: Final = 50.0


class Past:
    """
    Durations by bucket of ``_core.plan.durations``, and failures.

    Nothing is ever scaled down: what is new weighs more, and all weights are brought back before they grow too large.
    """

    __slots__ = ("_failed", "_sums", "_unit", "_weights")

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._weights = [0.0] * BUCKETS
        self._failed = 0.0
        self._unit = 1.0
        self._sums: list[float] | None = None
        if state is not None:
            self._failed, self._unit = state["failed"], state["unit"]
            for index, weight in state["durations"].items():
                self._weights[int(index)] = weight

    def add(self, side: Side) -> None:
        """Take in one tick of stable's."""
        # More requests in one tick than are remembered would overflow, and leave nothing of the past either way.
        unit = self._unit = self._unit * exp(min(side.requests / MEMORY, _LONGEST))
        weights = self._weights
        for index, n in side.durations.items():
            weights[index] += n * unit
        self._failed += side.failures * unit
        if unit > _HEAVIEST:
            self._weights = [weight / unit for weight in weights]
            self._failed /= unit
            self._unit = 1.0
        self._sums = None

    def _cumulated(self) -> list[float]:
        if self._sums is None:
            self._sums = list(accumulate(self._weights))
        return self._sums

    @property
    def requests(self) -> float:
        """How many requests it stands on, at most about MEMORY."""
        return self._cumulated()[-1] / self._unit

    @property
    def rate(self) -> float:
        """The error rate; between nothing seen and certainty by half a failure."""
        return (self._failed / self._unit + 0.5) / (self.requests + 1.0)

    def quantile(self, q: float) -> int:
        """The bucket in which the *q* quantile lies; the first where nothing was seen."""
        sums = self._cumulated()
        return min(bisect_right(sums, q * sums[-1]), BUCKETS - 1) if sums[-1] > 0 else 0

    def share_above(self, index: int) -> float:
        """The share of requests in buckets above *index*."""
        sums = self._cumulated()
        return 1.0 - sums[min(index, BUCKETS - 1)] / sums[-1] if sums[-1] > 0 else 0.0

    def state(self) -> dict[str, Any]:
        """What another goes on from."""
        weights = {str(index): weight for index, weight in enumerate(self._weights) if weight}
        return {"durations": weights, "failed": self._failed, "unit": self._unit}
