"""
Windows of counts, as a store keeps them, as the ticks that a judge sees.

Only requests that a fair hash assigned are in them. What cannot be read is left out and told, never raised.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.evidence.tick import GROUPS, Group, Side, Tick
from .._core.lifecycle.rollout import RANDOMISED
from .._core.plan.durations import BOUNDS_S, BUCKETS, upper_s
from .._core.tallies import FOR_THE_JUDGE, GRID, UNAVAILABLE, USERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._core.lifecycle.rollout import Variant


# Our buckets as a store names them, and the judge's that holds each.
_BUCKETS: Final = {str(index): bucket for index, bucket in enumerate(GRID)}
# The first field of a series' name that only the judge reads; rollout and version follow.
_GROUPS: Final = "#groups"
_FLIGHT: Final = "#flight"
MOST_ENDPOINTS: Final = 5
"""Endpoints that ``endpoints_of`` names."""
_USERS: Final = "#users"


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


def users_to_plain(newcomers: Sequence[tuple[Variant, int]]) -> dict[str, Any]:
    """The places that new identities took, as a store keeps them: place → a number above 0, merged by adding."""
    plain: dict[str, Any] = {}
    for variant, place in newcomers:
        plain.setdefault(_name(_USERS, variant.rollout, variant.version), {})[str(place)] = 1
    return plain


def places_of(plain: Mapping[str, Any], rollout: str, version: str) -> set[int]:
    """The places that *version*'s new identities took in a window."""
    found = _numbers(plain.get(_name(_USERS, rollout, version)))
    return {int(place) for place in found if place.isdigit() and int(place) < USERS}


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
        for name, numbers in plain.items():
            try:
                series = _BY_NAME.get(name) or _known(name)
                if series.rollout == rollout and series.is_compared and series.version in sides:
                    sides[series.version].add(series, numbers)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                # One worker's garbage hides nobody else's counts.
                if complain is not None:
                    complain(f"counts of second {begin} cannot be read and are left out: {error!r}")
        for version, side in sides.items():
            side.add_judged(plain, rollout, version)
        found.append(Tick(float(begin), weight_at(begin), sides[stable].side(), sides[canary].side()))
    return found


class Endpoint(NamedTuple):
    """What a version did at one route template (``""`` without one); *p95_s* in seconds."""

    route: str
    requests: int
    failures: int
    p95_s: float


def endpoints_of(
    windows: Sequence[tuple[int, Mapping[str, Any]]],
    rollout: str,
    stable: str,
    canary: str,
    *,
    complain: Callable[[str], None] | None = None,
) -> list[tuple[Endpoint, Endpoint]]:
    """
    Where the canary is at its worst: at most MOST_ENDPOINTS pairs (stable, canary), most failures first, then slowest.

    Args:
        windows: as for ``ticks_of``; endpoints without a request to the canary are left out.
        complain: told in a sentence of a window that cannot be read.
    """
    sums: dict[str, dict[str, _Sum]] = {}
    for begin, plain in windows:
        try:
            for name, numbers in plain.items():
                series = _BY_NAME.get(name) or _known(name)
                if series.rollout == rollout and series.is_compared and series.version in (stable, canary):
                    route = str(json.loads(name)[6] or "")
                    sides = sums.setdefault(route, {stable: _Sum(), canary: _Sum()})
                    sides[series.version].add(series, numbers)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if complain is not None:
                complain(f"the endpoints of second {begin} cannot be read and are left out: {error!r}")
    pairs = [(_endpoint(route, s[stable]), _endpoint(route, s[canary])) for route, s in sums.items()]
    pairs.sort(key=lambda pair: (-pair[1].failures, -pair[1].p95_s, pair[1].route))
    return [pair for pair in pairs if pair[1].requests][:MOST_ENDPOINTS]


def _endpoint(route: str, found: _Sum) -> Endpoint:
    side = found.side()
    seen = 0
    for index, n in sorted(side.durations.items()):
        seen += n
        if seen >= 0.95 * side.requests:
            return Endpoint(route, side.requests, side.failures, min(upper_s(index), BOUNDS_S[-1]))
    return Endpoint(route, 0, 0, 0.0)


class _Named(NamedTuple):
    """What the name of a series says."""

    rollout: str
    version: str
    is_compared: bool
    is_failed: bool
    is_unavailable: bool


# A fleet sends the same few hundred names every second.
_BY_NAME: Final[dict[str, _Named]] = {}
_MOST_NAMES: Final = 10_000


def _known(name: str) -> _Named:
    if name.startswith(FOR_THE_JUDGE):
        return _Named("", "", is_compared=False, is_failed=False, is_unavailable=False)
    rollout, version, _, reason, _, status, _, error, is_aborted = json.loads(name)
    is_away = error is not None and (status in UNAVAILABLE or error != str(status))
    found = _Named(rollout, version, reason in RANDOMISED and not is_aborted, error is not None, is_away)
    if len(_BY_NAME) >= _MOST_NAMES:
        _BY_NAME.clear()
    _BY_NAME[name] = found
    return found


class _Sum:
    """One version's part of a window."""

    def __init__(self) -> None:
        self._failures = self._unavailable = 0
        self._durations: dict[int, int] = {}
        self._groups: dict[int, Group] = {}

    def add(self, series: _Named, numbers: Mapping[str, Any]) -> None:
        count, durations = 0, self._durations
        for key, n in numbers.items():
            bucket = _BUCKETS.get(key)
            # Also a worker's NaN is not above 0. The sum of seconds stands beside the buckets.
            if bucket is not None and n > 0:
                count += int(n)
                durations[bucket] = durations.get(bucket, 0) + int(n)
        if series.is_failed:
            self._failures += count
            if series.is_unavailable:
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
