"""
Whether the canary fails more requests than stable does at the same moment.

Given the failures of both together, those of the canary are a binomial draw with the share of its requests as its bias;
whatever befalls both versions cancels. Each bet says that the canary fails so many times as often.
"""

from __future__ import annotations

from math import log
from typing import Final

RATIOS: Final = (2.0, 4.0, 10.0, 40.0)
"""How many times as often: the alternatives that are bet on."""
TOLERANCE: Final = 0.0002
"""A difference in error rate that nobody minds: 0.02 percentage points."""
_LOGS: Final = tuple((ratio, log(ratio)) for ratio in RATIOS)


def log_factors(x: float, y: float, n_c: float, n_s: float, tolerance: float = TOLERANCE) -> list[float]:
    """
    Logarithms of the betting factors, one for each of RATIOS.

    With p_c ≤ p_s + tolerance the expectation of each factor is at most 1: for Poisson failures it is exactly 1 at the
    border, and a binomial's moments are below those of its Poisson.

    Args:
        x, y: failures of canary and stable, 0 ≤ x ≤ n_c, 0 ≤ y ≤ n_s.
        n_c, n_s: their requests; may be fractions, where requests count less because they are alike.
    """
    share = n_c / (n_c + n_s)
    both = x + y
    found = []
    for ratio, gain in _LOGS:
        pooled = 1.0 + share * (ratio - 1.0)
        found.append(x * gain - both * log(pooled) - n_c * tolerance * (ratio / pooled - 1.0))
    return found


def log_factor_below(x: float, y: float, n_c: float, n_s: float, ratio: float) -> float:
    """
    Logarithm of the factor that bets on equal error rates, against p_c ≥ ratio · p_s.

    Args:
        ratio: how many times stable's error rate is too much, > 1.
    """
    share = ratio * n_c / (ratio * n_c + n_s)
    return -x * log(ratio) - (x + y) * log(1.0 + share * (1.0 / ratio - 1.0))
