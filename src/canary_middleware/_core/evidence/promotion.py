"""
Whether the canary has been shown to fail at most a margin more requests than stable.

Absence of evidence for harm is no evidence of its absence; this is the other question, with a bet of its own.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Final

_LEAST_BET: Final = 0.05
_MOST_BET: Final = 0.999


def best_bet(rate: float, margin: float, ratio: float) -> float:
    """
    How much to bet on equal error rates, against a canary worse by *margin*: the share that grows fastest.

    Args:
        rate: stable's error rate so far, ≥ 0.
        margin: a fraction > 0; 0.005 is half a percentage point.
        ratio: requests of the canary for each of stable's, > 0.
    Returns:
        0.05 … 0.999; 1 would bet nothing.
    """
    worse = (rate + margin) * (1.0 + ratio)
    root = worse * worse - 4.0 * margin * ratio * rate * (1.0 + ratio)
    bet = (worse - sqrt(max(root, 0.0))) / (2.0 * margin * ratio)
    return min(max(bet, _LEAST_BET), _MOST_BET)


def log_factor(x: float, y: float, n_c: float, n_s: float, bet: float, margin: float) -> float:
    """
    Logarithm of the factor against p_c ≥ p_s + margin; its expectation is then at most 1.

    Args:
        x, y: failures of canary and stable.
        n_c, n_s: their requests, both > 0.
        bet: of ``best_bet``, chosen before these requests were seen.
    """
    ratio = n_c / n_s
    return x * log(bet) + y * log(1.0 + ratio * (1.0 - bet)) + n_c * margin * (1.0 - bet)


def growth(rate: float, margin: float, ratio: float) -> float:
    """What the logarithm of the evidence is expected to grow by for each canary request, if both versions are equal."""
    bet = best_bet(rate, margin, ratio)
    return rate * log(bet) + rate / ratio * log(1.0 + ratio * (1.0 - bet)) + margin * (1.0 - bet)
