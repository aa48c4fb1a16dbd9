"""
Windows of counts, as a store keeps them, as the ticks that a judge sees.

Only requests that a fair hash assigned are in them. What cannot be read is left out and told, never raised.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from .core.durations import BOUNDS_S as GRID_S
from .core.judge.tick import Side, Tick
from .core.rollout import RANDOMISED
from .counts import BOUNDS_S, from_plain
from .summary import UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .counts import Cell, Series

# Our counts have the standard bounds too; a bucket of theirs lies within one of the judge's.
_GRID: Final = (*(bisect_left(GRID_S, bound) for bound in BOUNDS_S), len(GRID_S))


def ticks_of(
    windows: Sequence[tuple[int, Mapping[str, Any]]],
    rollout: str,
    stable: str,
    canary: str,
    weight_at: Callable[[int], int],
    *,
    complain: Callable[[str], None] | None = None,
) -> list[Tick]:
    """
    One tick for each of *windows*, in their order.

    Args:
        windows: (beginning in Unix seconds, merged counts), as ``Store.counts`` gives them.
        stable, canary: the names of the two versions that are compared.
        weight_at: the weight in ppm at a Unix second.
        complain: told in a sentence of a window that cannot be read.
    """
    found = []
    for begin, plain in windows:
        try:
            series = from_plain(plain)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if complain is not None:
                complain(f"the counts of second {begin} cannot be read and are left out: {error!r}")
            continue
        sides = {stable: _Sum(), canary: _Sum()}
        for one, cell in series.items():
            variant = one.variant
            if variant.rollout == rollout and variant.reason in RANDOMISED and variant.version in sides:
                sides[variant.version].add(one, cell)
        found.append(Tick(float(begin), weight_at(begin), sides[stable].side(), sides[canary].side()))
    return found


class _Sum:
    """One version's part of a window."""

    def __init__(self) -> None:
        self._requests = self._failures = self._unavailable = 0
        self._durations: dict[int, int] = {}

    def add(self, series: Series, cell: Cell) -> None:
        if series.aborted:
            return
        count = 0
        for index, n in cell.buckets.items():
            if n > 0 and 0 <= index < len(_GRID):
                count += n
                bucket = _GRID[index]
                self._durations[bucket] = self._durations.get(bucket, 0) + n
        self._requests += count
        if series.error_type is not None:
            self._failures += count
            if series.status in UNAVAILABLE or series.error_type != str(series.status):
                self._unavailable += count

    def side(self) -> Side:
        return Side(self._requests, self._failures, self._unavailable, self._durations)
