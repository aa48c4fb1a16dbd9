"""
Whether the canary is slower than stable at the same moment.

The threshold is a quantile of stable's past, chosen before the tick is seen; then two shares are compared. Two-sample
e-values after Turner, Ly & Grünwald (arXiv 2106.02693): under equal shares, whatever they are, no factor is expected to
exceed 1, because a geometric mean does not exceed the arithmetic one.
"""

from __future__ import annotations

from math import log
from typing import Final

from ..plan.durations import BUCKETS, bucket, upper_s

QUANTILES: Final = (0.5, 0.95, 0.99)
ODDS: Final = (1.3, 2.0, 4.0, 12.0)
"""How many times the odds of being slow: the alternatives that are bet on."""
GRACE: Final = 1
"""Buckets by which the canary may be slower: one is 2.4 %."""
GRACE_S: Final = 0.001
"""Seconds by which it may be slower in any case: what no user feels, and a line of code more costs."""
GRACED: Final = tuple(max(cut + GRACE, bucket(upper_s(cut) + GRACE_S)) for cut in range(BUCKETS))
"""Bucket of a threshold → the bucket beyond which a request to the canary is slow."""
# Fewer would put the threshold anywhere.
LEAST: Final = {0.5: 30.0, 0.95: 100.0, 0.99: 300.0}
_EDGE: Final = 1e-4


def log_factor(x: float, y: float, n_c: float, n_s: float, p_c: float, p_s: float) -> float:
    """
    Logarithm of the factor that bets on shares *p_c* and *p_s* against equal ones, or a smaller one of the favoured.

    Args:
        x, y: slow requests of canary and stable.
        n_c, n_s: their requests.
        p_c, p_s: shares of slow requests that are bet on, 0 < p < 1.
    """
    p_0 = (n_c * p_c + n_s * p_s) / (n_c + n_s)
    q_0 = 1.0 - p_0
    return (
        x * log(p_c / p_0)
        + (n_c - x) * log((1.0 - p_c) / q_0)
        + y * log(p_s / p_0)
        + (n_s - y) * log((1.0 - p_s) / q_0)
    )


def log_factors(x: float, y: float, n_c: float, n_s: float, p_s: float) -> list[float]:
    """Logarithms of the factors for each of ODDS, where stable's share of slow requests is expected to be *p_s*."""
    p_s = min(max(p_s, _EDGE), 1.0 - _EDGE)
    n = n_c + n_s
    found = []
    for odds in ODDS:
        p_c = odds * p_s / (1.0 - p_s + odds * p_s)
        p_0 = (n_c * p_c + n_s * p_s) / n
        q_0 = 1.0 - p_0
        found.append(
            x * log(p_c / p_0)
            + (n_c - x) * log((1.0 - p_c) / q_0)
            + y * log(p_s / p_0)
            + (n_s - y) * log((1.0 - p_s) / q_0)
        )
    return found


def safe_log_factor(x: float, y: float, n_c: float, n_s: float, p_c: float, p_s: float) -> float:
    """
    Logarithm of the factor that bets on a canary as fast as stable, against one slower by the margin.

    Args:
        x: the canary's requests above stable's quantile and the margin; y: stable's above its quantile.
        p_c, p_s: stable's past shares above the two.
    """
    p_s = min(max(p_s, _EDGE), 1.0 - _EDGE)
    p_c = min(max(p_c, _EDGE), p_s)
    return log_factor(x, y, n_c, n_s, p_c, p_s)
