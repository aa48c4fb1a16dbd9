"""
Daily closing prices, the same in every run: a random walk seeded by the symbol. HALTED has not been traded.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from random import Random

DAYS = 120


def closes(symbol: str) -> list[float]:
    """The last closing prices of *symbol*, the oldest first."""
    if symbol == "HALTED":
        return [42.0] * DAYS
    chance = Random(symbol)
    moves = (chance.gauss(0.0, 0.02) + (0.09 if chance.random() < 0.02 else 0.0) for _ in range(DAYS - 1))
    return list(accumulate(moves, lambda price, move: price * (1 + move), initial=100.0))


def returns(symbol: str) -> list[float]:
    """Day-to-day changes as fractions; one fewer than ``closes``."""
    prices = closes(symbol)
    return [after / before - 1 for before, after in pairwise(prices)]
