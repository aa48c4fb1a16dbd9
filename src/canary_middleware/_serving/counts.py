"""
Counts of finished requests, exact under threads, without a lock on the request path.

Each thread writes cells of its own; whoever reads adds them up. Cells of threads that have gone are folded into one
table, so that a server with a thread per request keeps a constant amount of memory.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Final
from weakref import ref

from .._core.lifecycle.rollout import RANDOMISED
from .._core.tallies import BOUNDS_S, GRID, GROUPS, OVERFLOW, USERS, Cell, Series, Snapshot

if TYPE_CHECKING:
    from .._core.exchange import Exchange
    from .._core.lifecycle.rollout import Variant

LOST_S: Final = 3600.0
_PLACES: Final = USERS - 1
MAX_SETS: Final = 2000
"""Label sets a thread keeps; the Python SDK has no limit of its own. Further ones share an overflow set per variant."""

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "WEBSOCKET", "_OTHER")
)


_Key = tuple["Variant", str, int, "str | None"] | tuple["Variant", str, int, "str | None", "str | None", bool]


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
