"""
What a version did since a stage began: sums to read rates and quantiles off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plan.durations import upper_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .tick import Side


class Totals:
    """
    Running sums of one version.

    Args:
        state: to go on from.
    """

    __slots__ = ("durations", "failures", "requests", "unavailable")

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.requests = self.failures = self.unavailable = 0
        self.durations: dict[int, int] = {}
        if state is not None:
            self.requests, self.failures, self.unavailable = state["counts"]
            self.durations = {int(index): n for index, n in state["durations"].items()}

    def add(self, side: Side) -> None:
        """Take in one tick."""
        self.requests += side.requests
        self.failures += side.failures
        self.unavailable += side.unavailable
        durations = self.durations
        for index, n in side.durations.items():
            durations[index] = durations.get(index, 0) + n

    @property
    def error_rate(self) -> float:
        """Failures by requests; 0 without requests."""
        return self.failures / self.requests if self.requests else 0.0

    @property
    def availability(self) -> float:
        """The share of requests that got an answer; 1 without requests."""
        return 1.0 - self.unavailable / self.requests if self.requests else 1.0

    def quantile_s(self, q: float) -> float | None:
        """The *q* quantile of the durations in seconds, its bucket's upper bound; None without any."""
        rank, seen = q * sum(self.durations.values()), 0
        for index in sorted(self.durations):
            seen += self.durations[index]
            if seen >= rank:
                return upper_s(index)
        return None

    def state(self) -> dict[str, Any]:
        """What another goes on from."""
        return {
            "counts": [self.requests, self.failures, self.unavailable],
            "durations": {str(index): n for index, n in self.durations.items()},
        }
