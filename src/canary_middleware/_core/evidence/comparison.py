"""
Canary against stable of the same moment: is it worse? Errors and latency, and one e-value for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import errors, latency
from .dispersion import of_share
from .onset import Onset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .past import Past
    from .tick import Side

WARM_UP: Final = 30
"""Canary requests whose durations are left out: caches are cold, connections new."""
MIN_BAD: Final = 3
"""Bad canary requests before anything can be condemned."""


class Cuts:
    """Where stable's past puts the thresholds of one tick, and how many requests were beyond them."""

    __slots__ = ("buckets", "shares", "slow_canary", "slow_stable")

    def __init__(self, past: Past, stable: Side, canary: Side) -> None:
        known = past.requests
        found = [past.quantile(q) for q in latency.QUANTILES if known >= latency.LEAST[q]]
        self.buckets = tuple(found)
        self.shares = tuple(past.share_above(cut) for cut in found)
        self.slow_stable = _above(stable.durations, found)
        self.slow_canary = _above(canary.durations, [latency.GRACED[cut] for cut in found])


def _above(durations: Mapping[int, int], cuts: Sequence[int]) -> list[int]:
    """For each of the ascending *cuts*: requests in buckets above it."""
    slow = [0] * len(cuts)
    for index, n in durations.items():
        for position, cut in enumerate(cuts):
            if index <= cut:
                break
            slow[position] += n
    return slow


class Comparison:
    """
    The families of bets that the canary is worse.

    Args:
        state: to go on from.
    """

    __slots__ = ("_latency", "bad", "errors")

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        saved: Mapping[str, Any] = state or {}
        self.errors = Onset(len(errors.RATIOS), saved.get("errors"))
        self._latency = [
            Onset(len(latency.ODDS), None if state is None else saved["latency"][n])
            for n in range(len(latency.QUANTILES))
        ]
        self.bad = int(saved.get("bad", 0))

    def add(self, stable: Side, canary: Side, phis: tuple[float, float], kept: float, cuts: Cuts | None) -> None:
        """
        Take in a tick in which both versions had requests.

        Args:
            phis: how many requests count as one, for errors and for durations.
            kept: ``onset.reserve`` of the canary requests before it.
            cuts: None while the canary warms up.
        """
        n_c, n_s = canary.requests, stable.requests
        phi = phis[0]
        logs = errors.log_factors(canary.failures / phi, stable.failures / phi, n_c / phi, n_s / phi)
        self.errors.bet(logs, kept)
        self.bad += canary.failures
        if cuts is None:
            return
        for n, share in enumerate(cuts.shares):
            phi = of_share(phis[1], latency.QUANTILES[n])
            x, y = cuts.slow_canary[n], cuts.slow_stable[n]
            self._latency[n].bet(latency.log_factors(x / phi, y / phi, n_c / phi, n_s / phi, share), kept)
        if cuts.slow_canary:
            self.bad += cuts.slow_canary[0]

    def temper(self, errors_power: float, before: float, after: float) -> None:
        """
        φ has risen: what was won counts less.

        Args:
            errors_power: φ of errors before, divided by that after.
            before, after: φ of durations.
        """
        if errors_power < 1.0:
            self.errors.temper(errors_power)
        if before < after:
            for q, onset in zip(latency.QUANTILES, self._latency, strict=True):
                onset.temper(of_share(before, q) / of_share(after, q))

    @property
    def latency(self) -> float:
        """The e-value that the canary is slower: the mean over the quantiles."""
        return sum(onset.evidence for onset in self._latency) / len(self._latency)

    def quantiles(self) -> dict[str, float]:
        """Each quantile's e-value by its name."""
        return {f"p{q * 100:.0f}": onset.evidence for q, onset in zip(latency.QUANTILES, self._latency, strict=True)}

    def state(self) -> dict[str, Any]:
        """What another goes on from."""
        return {
            "errors": self.errors.state(),
            "latency": [onset.state() for onset in self._latency],
            "bad": self.bad,
        }
