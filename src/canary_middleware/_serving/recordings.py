"""
Figures that the app records itself, per version: ``canary.record("cart_value", 12.5)``.

As in ``counts``: each thread writes a table of its own, and whoever reads adds them up; no lock on the request path.
What is recorded wrongly is logged once and counted, and never harms a request.
"""

from __future__ import annotations

import threading
from math import isfinite
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from .._core.exchange import Uncovered, active
from .._core.lifecycle.rollout import RANDOMISED
from .._core.tallies import NO_RECORDINGS, Key, Moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.lifecycle.rollout import Variant
    from .served import Served

MOST_NAMES: Final = 50
"""Metrics of one process; a name made of an order number would otherwise fill the memory."""
LARGEST: Final = 1e100
"""Sums of squares of larger values would not be finite."""
LONGEST_NAME: Final = 100
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Unattributed(LookupError):
    """Something was recorded outside a request, without saying for whom."""


class _Life:
    """Lives in what is local to a thread, and goes with it."""

    __slots__ = ("__weakref__",)


class Recordings:
    """
    What one process has recorded; a fork starts from zero.

    Args:
        canary: whose rollouts they are about.
    """

    def __init__(self, canary: Served) -> None:
        self._canary = canary
        self.forked()

    def forked(self) -> None:
        """Start from zero: the parent reports what it recorded."""
        self._local = threading.local()
        self._live: list[tuple[ref[_Life], dict[Key, Moments]]] = []
        self._gone: dict[Key, Moments] = {}
        self._lock = threading.Lock()
        # Entered twice where the collector ends an object that records something.
        self._naming = threading.RLock()
        self._names: set[str] = set()

    def record(self, name: str, value: object, identity: str | None, rollout: str | None) -> None:
        """See ``Canary.record``."""
        try:
            number = None if value is None else _number(name, value)
            variant = self._variant(identity, rollout)
            if variant is not None and (name in self._names or self._admit(name)):
                self._add((variant, name), number)
        except Exception as error:  # noqa: BLE001 - a figure must not cost a request
            self._canary.troubles.report("record", error, f"that recording of {name!r:.60} is left out")

    def _variant(self, identity: str | None, rollout: str | None) -> Variant | None:
        """Under which version it counts; None where no fair hash has decided."""
        if identity is not None:
            variant = self._canary.assign(identity, rollout=rollout)[0]
        else:
            exchange = active.get()
            if isinstance(exchange, Uncovered):
                return None
            if exchange is None or exchange.door.router.variants is not self._canary.variants:
                raise Unattributed('no request of this Canary is in hand here: pass identity="…" to say for whom')
            variant = exchange.variant
            # What stable records where it answers for a canary that failed says nothing of the canary.
            if exchange.assignment[0] is not variant:
                return None
        return variant if variant.reason in RANDOMISED else None

    def _admit(self, name: object) -> bool:
        """Whether recordings under *name*, which is new, are kept. Raises ValueError otherwise."""
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not _LETTERS.issuperset(name):
            raise TypeError(f"{name!r:.60} is no name: must be 1 to {LONGEST_NAME} letters, digits, dots, dashes or _")
        with self._naming:
            if name not in self._names and len(self._names) >= MOST_NAMES:
                raise ValueError(f"{name!r} would be metric {MOST_NAMES + 1} of this process: {MOST_NAMES} at most")
            self._names.add(name)
        return True

    def _add(self, key: Key, value: float | None) -> None:
        try:
            table: dict[Key, Moments] = self._local.table
        except AttributeError:
            table = self._table()
        n, total, squares, times = table.get(key, NO_RECORDINGS)
        # Replaced whole: a reader in between finds all of a recording, or nothing of it.
        if value is None:
            table[key] = Moments(n, total, squares, times + 1)
        else:
            table[key] = Moments(n + 1, total + value, squares + value * value, times)

    def _table(self) -> dict[Key, Moments]:
        """This thread's table, made at its first recording."""
        table: dict[Key, Moments] = {}
        life = _Life()
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
        for entry in [entry for entry in self._live if entry[0]() is None]:
            _fold(self._gone, entry[1])
            self._live.remove(entry)

    def snapshot(self) -> dict[Key, Moments]:
        """Everything recorded so far; monotone from one call to the next."""
        with self._lock:
            self._fold_gone()
            total = dict(self._gone)
            for _, table in list(self._live):
                _fold(total, table)
        return total


def _fold(into: dict[Key, Moments], table: dict[Key, Moments]) -> None:
    # copy() is one step; the table's owner may go on meanwhile.
    for key, moments in table.copy().items():
        into[key] = into.get(key, NO_RECORDINGS).plus(moments)


def _number(name: object, value: Any) -> float:  # Any: whatever the app hands in
    """*value*, of any type of number. Raises TypeError or ValueError."""
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"{name!r:.60} was recorded with {value!r:.60}: must be a number")
    number = float(value)
    if not isfinite(number) or abs(number) > LARGEST:
        raise ValueError(f"{name!r:.60} was recorded with {number!r}: must be finite, and {LARGEST:g} at most")
    return number


# -- as a store keeps them ---------------------------------------------------------------------------------------------


def difference(now: Mapping[Key, Moments], before: Mapping[Key, Moments]) -> dict[Key, Moments]:
    """What *now* has beyond *before*, an earlier snapshot."""
    return {
        key: moments.minus(before.get(key, NO_RECORDINGS))
        for key, moments in now.items()
        if moments != before.get(key, NO_RECORDINGS)
    }
