"""
The grid in which durations are compared: log-spaced buckets, the same in every process and release.

Four buckets are 10 %, so a quantile read off the grid is off by less than 2.5 %. From 1 ms to beyond 40 s.
"""

from __future__ import annotations

from bisect import bisect_left
from math import exp, log
from typing import Final

RATIO: Final = 1.1**0.25
"""Upper bound of a bucket divided by that of the one before."""
BOUNDS_S: Final = tuple(0.001 * exp(i * log(RATIO)) for i in range(450))
"""Upper bounds of the buckets, in seconds; bucket 450 holds what is longer than the last."""
BUCKETS: Final = len(BOUNDS_S) + 1


def bucket(seconds: float) -> int:
    """The bucket, 0 … 450, of a duration. NaN and what is below 0 count as nothing: bucket 0."""
    # NaN compares False with everything, so it falls through to bucket 0.
    return bisect_left(BOUNDS_S, seconds) if seconds > 0 else 0


def upper_s(index: int) -> float:
    """The upper bound of a bucket in seconds; infinite for the last."""
    return BOUNDS_S[index] if index < len(BOUNDS_S) else float("inf")
