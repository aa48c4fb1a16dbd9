"""
Evidence for a regression that may have begun at any time.

A product of betting factors loses what a good hour has cost it before a bad minute can count. So a part of the stake is
kept back and brought in bit by bit: a mixture over times of onset (Shiryaev-Roberts with a released prior). The sum of
all capital is an e-process as long as each factor's expectation is at most 1, given the past.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESERVE: Final = 0.25
_PACE: Final = 500.0
_MOST: Final = 1e9
_GREATEST_LOG: Final = 60.0


def reserve(seen: float) -> float:
    """The part of the stake that is kept back after *seen* canary requests: 0.25 at first, less and less later."""
    return float(_RESERVE * (1.0 + seen / _PACE) ** -0.5)


class Onset:
    """
    One family of bets, one for each alternative, all beginning with equal parts of a stake of 1.

    Args:
        alternatives: how many.
        state: what another one's ``state`` gave, to go on from.
        most: capital of an alternative beyond this is given away: it decides nothing, and evidence wanes as fast as it
            came. Never invalid.
    """

    __slots__ = ("_capital", "_kept", "_most", "evidence")

    def __init__(self, alternatives: int, state: Sequence[float] | None = None, *, most: float = _MOST) -> None:
        self._most = most
        self._kept = reserve(0.0)
        self._capital = [(1.0 - self._kept) / alternatives] * alternatives
        if state is not None:
            self._kept, *self._capital = state
        self.evidence = sum(self._capital) + self._kept
        """The e-value at present."""

    def bet(self, logs: Sequence[float], kept: float) -> float:
        """
        Take in the logarithms of one factor for each alternative.

        Args:
            kept: ``reserve`` before these outcomes; what it has shrunk by since the last call comes into play.
        Returns:
            the e-value.
        """
        capital, most = self._capital, self._most
        released = (self._kept - kept) / len(capital)
        self._kept = kept
        total = kept
        for n, log in enumerate(logs):
            won = (capital[n] + released) * exp(min(_GREATEST_LOG, log))
            if won > most:
                won = most
            capital[n] = won
            total += won
        self.evidence = total
        return total

    def temper(self, power: float) -> None:
        """
        Requests have turned out to count less than was thought: what was won by them counts less too.

        Args:
            power: 0 … 1, by which the logarithms of all factors so far are multiplied. Gains only shrink by it.
        """
        stake = (1.0 - _RESERVE) / len(self._capital)
        self._capital = [won if won <= stake else stake * (won / stake) ** power for won in self._capital]
        self.evidence = sum(self._capital) + self._kept

    def state(self) -> list[float]:
        """What another goes on from: the reserve, then each alternative's capital."""
        return [self._kept, *self._capital]
