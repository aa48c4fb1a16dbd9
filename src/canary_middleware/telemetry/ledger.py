"""
What one process has counted, read as points; and which ledger is this process's: a fork starts a new one.

Totals are cumulative since the process started serving. Nothing here knows the OpenTelemetry SDK.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final, cast

from . import names
from .series import (
    ABORTED,
    ACTIVE,
    AGE,
    ASSIGNED,
    CACHE,
    DB,
    DURATION,
    ERRORS,
    FELL_BACK,
    INSTRUMENTS,
    MISSED,
    OVERFLOW_SET,
    REVISION,
    WEIGHT,
    Admission,
    Distribution,
    db_attributes,
    duration_attributes,
    duration_key,
    shares,
    standard,
    version_attributes,
)
from .tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._core.tallies import Snapshot
    from .series import CacheKey, Counting, DbKey, Instrument, Point, Points, Subject

# Whose points come from Counts; ACTIVE is left out, as nothing is active in a Canary that has gone.
_FROM_COUNTS: Final = (DURATION, ABORTED, ASSIGNED, FELL_BACK, MISSED)


class _Entry:
    """A Canary that counts in this process; its counts outlive it."""

    __slots__ = ("counts", "subject")

    def __init__(self, subject: Subject, counts: Counting) -> None:
        self.subject = weakref.ref(subject)
        self.counts = counts


class Ledger:
    """
    Everything this process reports. A fork starts an empty one: the parent reports what it counted itself.

    Attributes:
        pid: the process it belongs to.
        started_ns: Unix time from which its totals count.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.started_ns = time.time_ns()
        self.db: Tally[DbKey] = Tally(names.DB_BOUNDS_S)
        self.cache: Tally[CacheKey] = Tally()
        self._entries: list[_Entry] = []
        self._gone: dict[str, Points] = {}
        self._lock = threading.Lock()
        self._admissions = {instrument.name: Admission(instrument.name) for instrument in INSTRUMENTS}

    def add(self, subject: Subject) -> None:
        """Report *subject* from now on; once, however often it is called. Holds no reference to it."""
        with self._lock:
            for entry in self._entries:
                if entry.subject() is subject:
                    entry.counts = subject.counts
                    return
            self._entries.append(_Entry(subject, subject.counts))

    def admission(self, instrument: Instrument) -> Admission:
        """The attribute sets in use for *instrument*."""
        return self._admissions[instrument.name]

    def subjects(self) -> Iterator[Subject]:
        """The Canary objects there are."""
        for entry in list(self._entries):
            subject = entry.subject()
            if subject is not None:
                yield subject

    def snapshots(self) -> list[Snapshot]:
        """The counts of every Canary there is. What those counted that have gone is in ``points`` nevertheless."""
        with self._lock:
            for entry in [entry for entry in self._entries if entry.subject() is None]:
                self._entries.remove(entry)
                last = [entry.counts.snapshot()]
                for instrument in _FROM_COUNTS:
                    self._gather(instrument, last, self._gone.setdefault(instrument.name, {}))
            return [entry.counts.snapshot() for entry in self._entries]

    def points(self, instrument: Instrument, snapshots: Sequence[Snapshot]) -> Points:
        """*instrument*'s points: key → (attributes, value)."""
        found: Points = {}
        for key, (attributes, value) in self._gone.get(instrument.name, {}).items():
            found[key] = (attributes, value.copy() if isinstance(value, Distribution) else value)
        self._gather(instrument, snapshots, found)
        return found

    def _gather(self, instrument: Instrument, snapshots: Sequence[Snapshot], found: Points) -> None:
        admission = self._admissions[instrument.name]
        by_counts = _BY_COUNTS.get(instrument.name)
        points = _BY_LEDGER[instrument.name](self) if by_counts is None else by_counts(snapshots)
        for key, attributes, value in points:
            admitted = admission.get(key) or admission.admit(key, attributes)
            under = None if admitted is OVERFLOW_SET else key
            known = found.get(under)
            if known is None:
                found[under] = (admitted, value)
            elif isinstance(value, Distribution):
                cast("Distribution", known[1]).add(value)  # an instrument's values are of one kind
            else:
                found[under] = (admitted, value if instrument.kind == "gauge" else cast("float", known[1]) + value)


# Each reads one instrument: (key, attributes, value). Equal keys are added up.


def _durations(snapshots: Sequence[Snapshot]) -> Iterator[Point]:
    for snapshot in snapshots:
        for series, cell in snapshot.series.items():
            if not series.aborted:
                yield duration_key(series), duration_attributes(series), standard(cell)


def _db(book: Ledger) -> Iterator[Point]:
    for key, sums in book.db.sums().items():
        yield key, db_attributes(key), Distribution(list(sums.buckets), sums.count, sums.total)


def _cache(book: Ledger) -> Iterator[Point]:
    for key, sums in book.cache.sums().items():
        rollout, version, result = key
        yield key, {**version_attributes(rollout, version), names.CACHE_RESULT: result}, sums.count


def _active(snapshots: Sequence[Snapshot]) -> Iterator[Point]:
    for snapshot in snapshots:
        for variant, begun in snapshot.begun.items():
            # A request that ended while the snapshot was taken may be in one count and not in the other.
            active = max(0, begun - snapshot.ended.get(variant, 0))
            yield (variant.rollout, variant.version), version_attributes(variant.rollout, variant.version), active


def _assigned(snapshots: Sequence[Snapshot]) -> Iterator[Point]:
    for snapshot in snapshots:
        for variant, begun in snapshot.begun.items():
            attributes = {**version_attributes(variant.rollout, variant.version), names.REASON: variant.reason}
            yield (variant.rollout, variant.version, variant.reason), attributes, begun


def _aborted(snapshots: Sequence[Snapshot]) -> Iterator[Point]:
    for snapshot in snapshots:
        for series, cell in snapshot.series.items():
            if series.aborted:
                variant = series.variant
                yield (
                    (variant.rollout, variant.version),
                    version_attributes(variant.rollout, variant.version),
                    cell.count,
                )


def _fell_back(snapshots: Sequence[Snapshot]) -> Iterator[Point]:
    for snapshot in snapshots:
        for key, n in snapshot.fallbacks.items():
            yield key, {**version_attributes(key[0], key[1]), names.ERROR_TYPE: key[2]}, n


def _missed(snapshots: Sequence[Snapshot]) -> Iterator[Point]:
    for snapshot in snapshots:
        for key, n in snapshot.missed.items():
            yield key, {**version_attributes(key[0], key[1]), names.FALLBACK_REASON: key[2]}, n


def _errors(book: Ledger) -> Iterator[Point]:
    for subject in book.subjects():
        for key, n in subject.internal_errors().items():
            yield key, {names.COMPONENT: key[0], names.ERROR_TYPE: key[1]}, n


def _weights(book: Ledger) -> Iterator[Point]:
    for subject in book.subjects():
        for rollout in subject.rollouts():
            for version, share in shares(rollout):
                yield (rollout.name, version), version_attributes(rollout.name, version), share


def _revisions(book: Ledger) -> Iterator[Point]:
    for subject in book.subjects():
        for rollout in subject.rollouts():
            yield rollout.name, {names.ROLLOUT: rollout.name}, rollout.revision


def _ages(book: Ledger) -> Iterator[Point]:
    for subject in book.subjects():
        age = subject.snapshot_age_s()
        for rollout in subject.rollouts():
            yield rollout.name, {names.ROLLOUT: rollout.name}, age


_BY_COUNTS: Final[Mapping[str, Callable[[Sequence[Snapshot]], Iterator[Point]]]] = {
    DURATION.name: _durations,
    ACTIVE.name: _active,
    ABORTED.name: _aborted,
    ASSIGNED.name: _assigned,
    FELL_BACK.name: _fell_back,
    MISSED.name: _missed,
}
_BY_LEDGER: Final[Mapping[str, Callable[[Ledger], Iterator[Point]]]] = {
    ERRORS.name: _errors,
    WEIGHT.name: _weights,
    REVISION.name: _revisions,
    AGE.name: _ages,
    DB.name: _db,
    CACHE.name: _cache,
}


_ledger = Ledger()
_making = threading.Lock()


def ledger() -> Ledger:
    """What this process has counted."""
    # Asked, not told by a fork hook: uWSGI forks in C and calls none.
    return _ledger if _ledger.pid == os.getpid() else _renewed()


def _renewed() -> Ledger:
    global _ledger
    with _making:
        if _ledger.pid != os.getpid():
            _ledger = Ledger()
        return _ledger


def _forked() -> None:
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forked)
