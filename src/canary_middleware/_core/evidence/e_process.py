"""
Evidence that more than a given share of outcomes is bad, valid at every look.

A bet against the limit: capital of which no more than the stake can be expected back as long as the limit holds,
whenever somebody looks and however often (Ville's inequality; Waudby-Smith & Ramdas, arXiv 2010.09686).
"""

from __future__ import annotations

from typing import Final

# From the limit to everything, evenly in proportion: a limit of 5 % bets on 7, 11, 22, 47 and 94 %. The last is not
# 100 %, where a single success would lose everything; five shares of the stake let three failures of three still win.
_EXPONENTS: Final = (0.9, 0.75, 0.5, 0.25, 0.02)
# A regression may start late. So a quarter of the stake is kept back, and brought in bit by bit (Shiryaev-Roberts with
# a released prior): after n outcomes 1 - 0.25 (1 + n/500)^-1/2 of it is in play.
_RESERVE: Final = 0.25
_PACE: Final = 500.0
_SMALLEST_LIMIT: Final = 1e-6  # no share below 0 can be bet on; one in a million is as good as never


class Wager:
    """
    The evidence against one limit.

    Between two bad outcomes it costs nothing: the good ones are only numbered, by the caller.

    Args:
        limit: the share of bad outcomes that is still right, 0 ≤ limit < 1.
        most: capital beyond this is given away, so that evidence wanes as fast as it came. Never invalid.
    """

    __slots__ = ("_capital", "_factors", "_last", "_most", "evidence")

    def __init__(self, limit: float, *, most: float) -> None:
        q = max(limit, _SMALLEST_LIMIT)
        shares = [q**exponent for exponent in _EXPONENTS]
        # Expected factor at a share p of bad outcomes: p·share/q + (1 - p)(1 - share)/(1 - q), 1 at p = q, less below.
        self._factors = tuple((share / q, (1 - share) / (1 - q)) for share in shares)
        self._capital = [(1 - _RESERVE) / len(shares)] * len(shares)
        self._most = most
        self._last = 0
        self.evidence = 1.0
        """The e-value after the last outcome it was told of."""

    def quiet(self, number: int) -> float:
        """All outcomes since the last call and before *number* (which counts from 1) were good. Returns the e-value."""
        n = number - self._last - 1
        if n > 0:
            released = self._released(number - 1)
            for i, (_, good) in enumerate(self._factors):
                kept = good**n
                # Each bit was brought in at its own time; all are taken for as small as the last, which is a little
                # less than was due.
                self._capital[i] = self._capital[i] * kept + released * good * (1 - kept) / (1 - good)
            self._last = number - 1
            self._sum()
        return self.evidence

    def bad(self, number: int) -> float:
        """Outcome *number* was bad, those since the last call were good. Returns the e-value."""
        self.quiet(number)
        released = self._released(number)
        for i, (bad, _) in enumerate(self._factors):
            self._capital[i] = min((self._capital[i] + released) * bad, self._most)
        self._last = number
        self._sum()
        return self.evidence

    def forget(self) -> None:
        """Give all capital away: what was seen is explained, new evidence begins from the reserve. Never invalid."""
        self._capital = [0.0] * len(self._capital)
        self._sum()

    def _released(self, number: int) -> float:
        """What comes into play for each alternative before outcome *number*, rounded down by the curve's slope."""
        slope = _RESERVE / (2 * _PACE) * (1 + number / _PACE) ** -1.5
        return float(slope / len(self._factors))

    def _sum(self) -> None:
        reserve = _RESERVE * float((1 + self._last / _PACE) ** -0.5)
        self.evidence = sum(self._capital) + reserve
