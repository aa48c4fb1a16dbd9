"""
Windows of counts, as a store keeps them, as the ticks that a judge sees.

Only requests that a fair hash assigned are in them. What cannot be read is left out and told, never raised.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from .core.durations import BUCKETS
from .core.judge.tick import GROUPS, Group, Side, Tick
from .core.rollout import RANDOMISED
from .counts import GRID, from_plain
from .summary import UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .core.rollout import Variant
    from .counts import Cell, Series


# The first field of a series' name that only the judge reads; rollout and version follow.
_GROUPS: Final = "#groups"
_FLIGHT: Final = "#flight"


def groups_to_plain(rows: Mapping[Variant, Sequence[int]]) -> dict[str, Any]:
    """Identity groups as a store keeps them: ``n<group>``, ``x<group>``, ``s<group>`` → a number, merged by adding."""
    plain = {}
    for variant, row in rows.items():
        numbers = {
            f"{letter}{group}": row[part * GROUPS + group]
            for part, letter in enumerate("nxs")
            for group in range(GROUPS)
            if row[part * GROUPS + group]
        }
        if numbers:
            plain[_name(_GROUPS, variant.rollout, variant.version)] = numbers
    return plain


def flight_to_plain(said: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[str, Any]:
    """What ``InFlight.look`` said, as a store keeps it."""
    return {_name(_FLIGHT, rollout, version): dict(numbers) for (rollout, version), numbers in said.items()}


def _name(*parts: str) -> str:
    return json.dumps(parts, separators=(",", ":"))


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
        sides = {stable: _Sum(), canary: _Sum()}
        try:
            series = from_plain(plain)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if complain is not None:
                complain(f"the counts of second {begin} cannot be read and are left out: {error!r}")
            continue
        for one, cell in series.items():
            variant = one.variant
            if variant.rollout == rollout and variant.reason in RANDOMISED and variant.version in sides:
                sides[variant.version].add(one, cell)
        for version, side in sides.items():
            side.add_judged(plain, rollout, version)
        found.append(Tick(float(begin), weight_at(begin), sides[stable].side(), sides[canary].side()))
    return found


class _Sum:
    """One version's part of a window."""

    def __init__(self) -> None:
        self._failures = self._unavailable = 0
        self._durations: dict[int, int] = {}
        self._groups: dict[int, Group] = {}

    def add(self, series: Series, cell: Cell) -> None:
        if series.aborted:
            return
        count = 0
        for index, n in cell.buckets.items():
            if n > 0 and 0 <= index < len(GRID):
                count += n
                bucket = GRID[index]
                self._durations[bucket] = self._durations.get(bucket, 0) + n
        if series.error_type is not None:
            self._failures += count
            if series.status in UNAVAILABLE or series.error_type != str(series.status):
                self._unavailable += count

    def add_judged(self, plain: Mapping[str, Any], rollout: str, version: str) -> None:
        """What only the judge reads: requests in flight, and identity groups."""
        flight = _numbers(plain.get(_name(_FLIGHT, rollout, version)))
        failures = flight.pop("f", 0)
        self._failures += failures
        self._unavailable += failures
        for text, n in flight.items():
            if text.isdigit() and int(text) < BUCKETS:
                self._durations[int(text)] = self._durations.get(int(text), 0) + n
        groups = _numbers(plain.get(_name(_GROUPS, rollout, version)))
        for group in range(GROUPS):
            requests, failed, durations = (max(0, groups.get(f"{letter}{group}", 0)) for letter in "nxs")
            if requests:
                self._groups[group] = Group(requests, min(failed, requests), durations)

    def side(self) -> Side:
        # What is taken back of a request in flight may stand in another window than what was said of it.
        durations = {index: n for index, n in self._durations.items() if n > 0}
        requests = sum(durations.values())
        failures = min(max(self._failures, 0), requests)
        return Side(requests, failures, min(max(self._unavailable, 0), failures), durations, self._groups)


def _numbers(found: object) -> dict[str, int]:
    """The whole numbers in a series' plain data; nothing of what is none."""
    if not isinstance(found, dict):
        return {}
    return {str(key): int(n) for key, n in found.items() if isinstance(n, (int, float)) and n == n and abs(n) < 1e15}
