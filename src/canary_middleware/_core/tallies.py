"""
Counts as values: what has been seen of a version's requests and recordings, mergeable and serialisable.
"""

from __future__ import annotations

from bisect import bisect_left
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .plan.durations import BOUNDS_S as GRID_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .lifecycle.rollout import Variant, Variants

OTEL_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bucket bounds of ``http.server.request.duration`` in OpenTelemetry's semantic conventions, seconds."""

BOUNDS_S: Final = tuple(sorted({*GRID_S, *OTEL_BOUNDS_S}))
"""Upper bounds of the buckets we count in: the log-spaced ones and the standard ones, so that both come out exact."""
GRID: Final = (*(bisect_left(GRID_S, bound) for bound in BOUNDS_S), len(GRID_S))
"""Index into BOUNDS_S → bucket of ``_core.plan.durations``: a standard bound lies within one of those."""
USERS: Final = 16_384
"""Places that identities fall into by hash: those taken for the first time count as new identities."""
GROUPS: Final = 64
"""Identity groups, by the last six bits of the identity's point."""

OVERFLOW: Final = "_OVERFLOW"
"""The method under which requests beyond MAX_SETS are counted."""

UNAVAILABLE: Final = frozenset({502, 503, 504})
"""Statuses that are no answer of the application."""


class Series(NamedTuple):
    """What one cell counts. ``error_type`` is None unless the request failed; ``aborted`` is neither."""

    variant: Variant
    method: str
    status: int
    route: str | None
    error_type: str | None = None
    aborted: bool = False


# The first four of a Series' fields for what went well, which is nearly everything; all six for the rest.
class Cell:
    """Requests of one series: how long in all (seconds), and how many in which bucket of BOUNDS_S."""

    __slots__ = ("buckets", "total_s")

    def __init__(self) -> None:
        self.total_s = 0.0
        self.buckets: dict[int, int] = {}

    @property
    def count(self) -> int:
        """How many requests. Not kept beside the buckets, so that the two never disagree."""
        return sum(dict(self.buckets).values())

    def add(self, other: Cell) -> None:
        """Add *other*'s requests to this cell."""
        # dict() of a dict with int keys is one atomic step; its owner may go on counting meanwhile.
        for index, n in dict(other.buckets).items():
            self.buckets[index] = self.buckets.get(index, 0) + n
        self.total_s += other.total_s

    def minus(self, before: Cell | None) -> Cell:
        """What came since *before*, an earlier reading of the same series."""
        fresh = Cell()
        old = {} if before is None else before.buckets
        for index, n in dict(self.buckets).items():
            if n > old.get(index, 0):
                fresh.buckets[index] = n - old.get(index, 0)
        fresh.total_s = self.total_s - (0.0 if before is None else before.total_s)
        return fresh

    def quantile_s(self, q: float) -> float:
        """The *q* quantile in seconds (0 < q < 1), geometric mean of its bucket's bounds; 0.0 without requests."""
        return quantile_s(self.buckets, q)


def quantile_s(buckets: dict[int, int], q: float) -> float:
    """The *q* quantile of a bucket count, in seconds; 0.0 where there is none."""
    count = sum(buckets.values())
    if count <= 0:
        return 0.0
    rank = q * count
    seen = 0
    for index in sorted(buckets):
        seen += buckets[index]
        if seen >= rank:
            return _middle_s(index)
    return BOUNDS_S[-1]


def _middle_s(index: int) -> float:
    if index == 0:
        return BOUNDS_S[0]
    if index >= len(BOUNDS_S):
        return BOUNDS_S[-1]
    return float((BOUNDS_S[index - 1] * BOUNDS_S[index]) ** 0.5)


class Moments(NamedTuple):
    """
    All recordings of one metric by one version.

    Attributes:
        n, total, squares: those with a value: how many, their sum, and the sum of their squares.
        times: how many without a value.
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    times: int = 0

    def plus(self, other: Moments) -> Moments:
        """Both together."""
        return Moments(
            self.n + other.n, self.total + other.total, self.squares + other.squares, self.times + other.times
        )

    def minus(self, before: Moments) -> Moments:
        """What came since *before*, an earlier reading."""
        return Moments(
            self.n - before.n, self.total - before.total, self.squares - before.squares, self.times - before.times
        )


NO_RECORDINGS: Final = Moments()
Key = tuple["Variant", str]
"""What a version recorded under a name."""


def merged(cells: Iterable[Cell]) -> Cell:
    """One cell with the requests of all of *cells*."""
    total = Cell()
    for cell in cells:
        total.add(cell)
    return total


FOR_THE_JUDGE: Final = '["#'
"""How the names of those series begin that are no requests' own: identity groups, requests in flight and the like."""


def to_plain(series: Mapping[Series, Cell]) -> dict[str, Any]:
    """
    Counts as a store keeps them: ``<series as JSON> → {"s": seconds, "<bucket>": requests}``.

    All values are numbers, merged by adding those under equal keys.
    """
    import json

    plain: dict[str, Any] = {}
    for key, cell in series.items():
        variant = key.variant
        name = json.dumps(
            [variant.rollout, variant.version, variant.role, variant.reason, *key[1:]], separators=(",", ":")
        )
        plain[name] = {"s": cell.total_s, **{str(index): n for index, n in cell.buckets.items()}}
    return plain


def merge_plain(into: dict[str, Any], plain: Mapping[str, Any]) -> None:
    """Add the numbers of *plain* (``to_plain``) to those under equal keys of *into*."""
    for series, numbers in plain.items():
        mine = into.setdefault(series, {})
        for key, n in numbers.items():
            mine[key] = mine.get(key, 0) + n


def from_plain(plain: Mapping[str, Any], variants: Variants | None = None) -> dict[Series, Cell]:
    """The counts that ``to_plain`` wrote, perhaps of several workers merged; what only the judge reads is left out."""
    import json

    from .lifecycle.rollout import Variants

    table = Variants() if variants is None else variants
    series: dict[Series, Cell] = {}
    for name, numbers in plain.items():
        if name.startswith(FOR_THE_JUDGE):
            continue
        rollout, version, role, reason, *rest = json.loads(name)
        cell = Cell()
        cell.total_s = numbers["s"]
        cell.buckets = {int(index): int(n) for index, n in numbers.items() if index != "s"}
        series[Series(table.get(rollout, version, role, reason), *rest)] = cell
    return series


class Snapshot(NamedTuple):
    """Totals of this process since it started (or was forked)."""

    begun: dict[Variant, int]
    ended: dict[Variant, int]
    series: dict[Series, Cell]
    fallbacks: dict[tuple[str, str, str], int]
    """(rollout, version that failed, error.type) → requests that stable answered."""
    missed: dict[tuple[str, str, str], int]
    """(rollout, version that failed, why) → failures of the canary that stable could not answer."""
    groups: dict[Variant, list[int]]
    """What a fair hash assigned: the identity groups' requests, then their failures, then sums of duration buckets."""


_SERIES: Final = "#custom"


def custom_to_plain(fresh: Mapping[Key, Moments]) -> dict[str, Any]:
    """Recordings as a store keeps them: ``n``, ``sum``, ``sq`` and ``times`` → a number, merged by adding."""
    plain = {}
    for (variant, name), moments in fresh.items():
        numbers = {"n": moments.n, "sum": moments.total, "sq": moments.squares, "times": moments.times}
        plain[_name(variant.rollout, variant.version, name)] = {key: n for key, n in numbers.items() if n}
    return plain


def custom_of(plain: Mapping[str, Any], rollout: str, version: str, name: str) -> Moments:
    """What *version* recorded under *name* in one window of a store; nothing where that cannot be read."""
    found = plain.get(_name(rollout, version, name))
    if not isinstance(found, dict):
        return NO_RECORDINGS
    numbers = [found.get(key, 0) for key in ("n", "sum", "sq", "times")]
    if not all(isinstance(n, (int, float)) and isfinite(n) for n in numbers):
        return NO_RECORDINGS
    n, total, squares, times = numbers
    return Moments(int(n), float(total), float(squares), int(times)) if min(n, squares, times) >= 0 else NO_RECORDINGS


def _name(rollout: str, version: str, name: str) -> str:
    import json

    return json.dumps([_SERIES, rollout, version, name], separators=(",", ":"))
