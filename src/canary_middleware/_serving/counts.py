"""
Counts of finished requests, exact under threads, without a lock on the request path.

Each thread writes cells of its own; whoever reads adds them up. Cells of threads that have gone are folded into one
table, so that a server with a thread per request keeps a constant amount of memory.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import ref

from .._core.lifecycle.rollout import RANDOMISED
from .._core.plan.durations import BOUNDS_S as GRID_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._core.exchange import Exchange
    from .._core.lifecycle.rollout import Variant, Variants

OTEL_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bucket bounds of ``http.server.request.duration`` in OpenTelemetry's semantic conventions, seconds."""

BOUNDS_S: Final = tuple(sorted({*GRID_S, *OTEL_BOUNDS_S}))
"""Upper bounds of the buckets we count in: the log-spaced ones and the standard ones, so that both come out exact."""
GRID: Final = (*(bisect_left(GRID_S, bound) for bound in BOUNDS_S), len(GRID_S))
"""Index into BOUNDS_S → bucket of ``core.durations``: a standard bound lies within one of those."""
USERS: Final = 16_384
"""Places that identities fall into by hash: those taken for the first time count as new identities."""
LOST_S: Final = 3600.0
_PLACES: Final = USERS - 1
GROUPS: Final = 64
"""Identity groups, by the last six bits of the identity's point."""

MAX_SETS: Final = 2000
"""Label sets a thread keeps; the Python SDK has no limit of its own. Further ones share an overflow set per variant."""

OVERFLOW: Final = "_OVERFLOW"
"""The method under which requests beyond MAX_SETS are counted."""

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "WEBSOCKET", "_OTHER")
)


class Series(NamedTuple):
    """What one cell counts. ``error_type`` is None unless the request failed; ``aborted`` is neither."""

    variant: Variant
    method: str
    status: int
    route: str | None
    error_type: str | None = None
    aborted: bool = False


# The first four of a Series' fields for what went well, which is nearly everything; all six for the rest.
_Key = tuple["Variant", str, int, "str | None"] | tuple["Variant", str, int, "str | None", "str | None", bool]


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


class _Life:
    """
    Lives in what is local to a thread, and goes with it.

    Servers written in C and ``_thread`` make threads that ``threading`` takes to be alive for ever.
    """

    __slots__ = ("__weakref__",)


class _Table:
    """What one thread has counted."""

    __slots__ = ("begun", "cells", "fallbacks", "groups", "missed")

    def __init__(self) -> None:
        self.begun: dict[Variant, int] = {}
        self.groups: dict[Variant, list[int]] = {}
        """Of each identity group the requests, then of each the failures, then of each the sum of duration buckets."""
        self.cells: dict[_Key, Cell] = {}
        self.fallbacks: dict[tuple[str, str, str], int] = {}
        self.missed: dict[tuple[str, str, str], int] = {}

    def fold(self, other: _Table) -> None:
        """Add all of *other*'s counts to this table."""
        for variant, n in dict(other.begun).items():
            self.begun[variant] = self.begun.get(variant, 0) + n
        for mine, theirs in ((self.fallbacks, other.fallbacks), (self.missed, other.missed)):
            for key, n in dict(theirs).items():
                mine[key] = mine.get(key, 0) + n
        for series, cell in dict(other.cells).items():
            self.cells.setdefault(series, Cell()).add(cell)
        for variant, row in dict(other.groups).items():
            sums = self.groups.setdefault(variant, [0] * len(row))
            for index, n in enumerate(list(row)):
                sums[index] += n

    def row(self, variant: Variant) -> list[int]:
        """The groups of *variant*, made at its first request; none where no fair hash decided."""
        return self.groups.setdefault(variant, [0] * (3 * GROUPS) if variant.reason in RANDOMISED else [])


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


class Counts:
    """
    The counts of one process; a fork starts from zero.

    Attributes:
        is_judged: whether a judge will ask for identity groups, places and requests in flight; without a store none
            does.
    """

    def __init__(self) -> None:
        self.is_judged = False
        self._reset()

    def _reset(self) -> None:
        self.pid = os.getpid()
        self._local = threading.local()
        self._live: list[tuple[ref[_Life], _Table]] = []
        self._gone = _Table()
        self._lock = threading.Lock()
        self.live: dict[Exchange, None] = {}
        """Requests that have begun and not ended. Each step on it is atomic."""
        self._sighted: dict[Variant, bytearray] = {}
        self._newcomers: list[tuple[Variant, int]] = []

    def forked(self) -> None:
        """Start from zero: the parent reports what it counted."""
        self._reset()

    def _table(self) -> _Table:
        """This thread's table, made at its first request."""
        table, life = _Table(), _Life()
        self._local.table, self._local.life = table, life
        # Never wait for a reader: whoever holds the lock folds, or the next new thread does.
        if self._lock.acquire(blocking=False):
            try:
                self._fold_gone()
            finally:
                self._lock.release()
        self._live.append((ref(life), table))
        return table

    def _fold_gone(self) -> None:
        """Move the tables of ended threads into one. Call with the lock held."""
        live = self._live
        for entry in [entry for entry in live if entry[0]() is None]:
            self._gone.fold(entry[1])
            live.remove(entry)

    def begin(self, variant: Variant, exchange: Exchange | None = None) -> None:
        """One request was assigned; *exchange* is what will end."""
        if self.is_judged and exchange is not None:
            self.live[exchange] = None
        try:
            begun = self._local.table.begun
        except AttributeError:
            begun = self._table().begun
        try:
            begun[variant] += 1
        except KeyError:
            begun[variant] = 1

    def end(self, exchange: Exchange) -> None:
        """One request ended; reads the exchange's outcome."""
        try:
            table: _Table = self._local.table
        except AttributeError:
            table = self._table()
        status = exchange.status
        key: _Key
        if status < 500 and exchange.odd is None:
            key = (exchange.variant, exchange.method, status, exchange.route)
        else:
            key = _odd(table, exchange)
        try:
            cell = table.cells[key]
        except KeyError:
            cell = _new_cell(table, key)
        seconds = exchange.duration
        cell.total_s += seconds
        index = bisect_left(BOUNDS_S, seconds)
        try:
            cell.buckets[index] += 1
        except KeyError:
            cell.buckets[index] = 1
        if self.is_judged:
            self._note(table, exchange, index)

    def _note(self, table: _Table, exchange: Exchange, index: int) -> None:
        """What only a judge asks for: identity group and place of a request whose duration is in bucket *index*."""
        self.live.pop(exchange, None)
        variant = exchange.variant
        row = table.groups.get(variant)
        if row is None:
            row = table.row(variant)
        if not row:
            return
        if exchange.odd is None and exchange.status < 500:
            point = exchange.assignment[2]
        else:
            point = None if exchange.is_aborted else exchange.decided[2]
            if point is not None and exchange.is_failed:
                row[GROUPS + (point[7] & 63)] += 1
        if point is None:
            return
        group = point[7] & 63
        row[group] += 1
        row[2 * GROUPS + group] += GRID[index]
        place = (point[4] << 8 | point[5]) & _PLACES
        taken = self._sighted.get(variant)
        if taken is None:
            taken = self._sighted.setdefault(variant, bytearray(USERS))
        if not taken[place]:
            # Two threads may both note it, which harms nobody.
            taken[place] = 1
            self._newcomers.append((variant, place))

    def drop_lost(self, now: float) -> None:
        """Wait no longer for the end of what has begun an hour before *now*: a server has lost it."""
        for exchange in [one for one in list(self.live) if now - one.started > LOST_S]:
            self.live.pop(exchange, None)

    def forget_users(self) -> None:
        """Note every identity anew: whoever judges may have begun anew, and knows those that it has heard of."""
        self._sighted = {}

    def newcomers(self) -> list[tuple[Variant, int]]:
        """(who served it, place) of each identity that is new since the last call."""
        # Whoever appends meanwhile appends to what is left.
        found = self._newcomers[:]
        del self._newcomers[: len(found)]
        return found

    def snapshot(self) -> Snapshot:
        """Everything counted so far; monotone from one call to the next. Takes a lock that no request waits for."""
        with self._lock:
            self._fold_gone()
            total = _Table()
            total.fold(self._gone)
            for _, table in list(self._live):
                total.fold(table)
        series = {Series(*key): cell for key, cell in total.cells.items()}  # pyright: ignore[reportArgumentType]
        ended: dict[Variant, int] = {}
        for key, cell in series.items():
            ended[key.variant] = ended.get(key.variant, 0) + cell.count
        return Snapshot(
            total.begun,
            ended,
            series,
            total.fallbacks,
            total.missed,
            {variant: row for variant, row in total.groups.items() if row},
        )


def _odd(table: _Table, exchange: Exchange) -> _Key:
    """The key of a request that may not have gone well; counts fallbacks, and failures that could not fall back."""
    variant = exchange.variant
    if exchange.failure is not None:
        _add(table.fallbacks, (variant.rollout, variant.version, exchange.failure.error_type))
    elif exchange.missed is not None:
        _add(table.missed, (variant.rollout, variant.version, exchange.missed))
    if not exchange.is_aborted and not exchange.is_failed:
        return (variant, exchange.method, exchange.status, exchange.route)
    error = None if exchange.is_aborted else exchange.outcome_error
    return (variant, exchange.method, exchange.outcome_status, exchange.route, error, exchange.is_aborted)


def _new_cell(table: _Table, key: _Key) -> Cell:
    variant, method, *rest = key
    if method not in _METHODS:  # RFC 9110 lets a client send any; only the known ones get a series of their own
        key = (variant, "_OTHER", *rest)  # type: ignore[assignment]
        if key in table.cells:
            return table.cells[key]
    if len(table.cells) >= MAX_SETS:
        error, aborted = key[4:] or (None, False)
        key = (variant, OVERFLOW, 0, None, None if error is None else OVERFLOW, aborted)
    return table.cells.setdefault(key, Cell())


def _add(counter: dict[tuple[str, str, str], int], key: tuple[str, str, str]) -> None:
    counter[key] = counter.get(key, 0) + 1


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

    from .._core.lifecycle.rollout import Variants

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
