"""
Whether the versions got their shares of identities: a sample-ratio mismatch makes every comparison suspect.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Final

from ..assignment.bucketing import BUCKETS
from .onset import Onset

if TYPE_CHECKING:
    from collections.abc import Sequence

ALPHA: Final = 0.001
_OVER: Final = 20.0
_MOST: Final = 1e4
_ODDS: Final = (0.5, 0.8, 1.25, 2.0)


class Balance:
    """
    The evidence that new identities do not split as the weight says.

    Args:
        state: to go on from.
    """

    __slots__ = ("_onset", "canary", "expected", "is_off", "seen")

    def __init__(self, state: Sequence[float] | None = None) -> None:
        self.canary, self.expected, self.seen, is_off = (0.0, 0.0, 0.0, 0.0) if state is None else state[:4]
        self.is_off = bool(is_off)
        """Whether the split is not what it should be, 999 to 1; until hardly anything speaks for it any more."""
        self._onset = Onset(len(_ODDS), None if state is None else state[4:], most=_MOST)

    def add(self, canary: float, stable: float, weight_ppm: int, kept: float) -> None:
        """Take in identities that were new in a tick, of which the canary was due *weight_ppm*."""
        share, seen = weight_ppm / BUCKETS, canary + stable
        if not 0.0 < share < 1.0 or not seen:
            return
        self.canary += canary
        self.seen += seen
        self.expected += seen * share
        logs = []
        for odds in _ODDS:
            bet = odds * share / (1.0 - share + odds * share)
            logs.append(canary * log(bet / share) + stable * log((1.0 - bet) / (1.0 - share)))
        evidence = self._onset.bet(logs, kept)
        self.is_off = evidence >= 1.0 / ALPHA or (self.is_off and evidence >= _OVER)

    @property
    def evidence(self) -> float:
        """The e-value at present."""
        return self._onset.evidence

    def state(self) -> list[float]:
        """What another goes on from."""
        return [self.canary, self.expected, self.seen, float(self.is_off), *self._onset.state()]
