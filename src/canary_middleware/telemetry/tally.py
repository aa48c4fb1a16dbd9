"""
Sums that any thread may add to, without a lock that a reader holds, and exact whichever thread has gone since.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

K = TypeVar("K", bound="Hashable")

# Folded by whoever adds the next one: an app that nobody collects from keeps this many numbers per tally.
_FOLD_AT: Final = 4096


class Sums:
    """What was added under one key: how many, how much in all, and in which bucket."""

    __slots__ = ("buckets", "count", "total")

    def __init__(self, buckets: int) -> None:
        self.count = 0
        self.total = 0.0
        self.buckets = [0] * buckets


class Tally(Generic[K]):
    """
    Numbers under keys.

    Args:
        bounds: upper bounds of the buckets, inclusive; none where only the count matters.
    """

    def __init__(self, bounds: Sequence[float] = ()) -> None:
        self._bounds = tuple(bounds)
        # Appending to and popping from a deque are atomic: that is the whole hand-over.
        self._fresh: deque[tuple[K, float]] = deque()
        self._sums: dict[K, Sums] = {}
        self._lock = threading.Lock()

    def add(self, key: K, value: float) -> None:
        """Add *value* under *key*; never waits."""
        self._fresh.append((key, value))
        if len(self._fresh) >= _FOLD_AT and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def sums(self) -> dict[K, Sums]:
        """Everything added so far. The values are the tally's own: read them before the next call."""
        with self._lock:
            self._fold()
            return dict(self._sums)

    def _fold(self) -> None:
        fresh, sums, bounds = self._fresh, self._sums, self._bounds
        # As many as there are now: others go on adding meanwhile, and this must come to an end.
        for _ in range(len(fresh)):
            key, value = fresh.popleft()
            entry = sums.get(key)
            if entry is None:
                entry = sums[key] = Sums(len(bounds) + 1)
            entry.count += 1
            entry.total += value
            entry.buckets[bisect_left(bounds, value)] += 1
