"""
The legacy engine: fixed thresholds, whatever the symbol.
"""

from __future__ import annotations

from .prices import returns


def anomalies(symbol: str) -> list[int]:
    """The days that moved by more than 5 %."""
    return [day for day, move in enumerate(returns(symbol)) if abs(move) > 0.05]


def limit_up(symbol: str) -> float:
    """The chance that tomorrow closes at the limit, 0 … 1: the share of past days that came close."""
    moves = returns(symbol)
    return sum(move > 0.08 for move in moves) / len(moves)
