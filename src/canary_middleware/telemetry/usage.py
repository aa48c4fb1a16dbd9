"""
What the app says its requests did: database operations and cache look-ups, by version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .._core.exchange import Exchange, active
from . import foreign
from .ledger import ledger
from .request import Track

if TYPE_CHECKING:
    from .series import DbKey


def record_db(seconds: float, system: str, operation: str, error_type: str | None = None) -> None:
    """
    One database operation of the request in hand; outside of one nothing is recorded.

    Where the driver is instrumented its spans are counted by themselves, and this call adds nothing for the same
    system in the same request. Never raises on what it measures.

    Args:
        seconds: how long it took.
        system: ``db.system.name`` of the semantic conventions: ``postgresql``, ``sqlite``, ``redis`` …
        operation: ``db.operation.name``: ``SELECT``, ``GET`` … Never a statement: it is a label.
        error_type: class name of the exception, where there was one.
    """
    exchange = active.get()
    if isinstance(exchange, Exchange):
        count_db(exchange, seconds, system, operation, error_type, from_span=False)


def count_db(
    exchange: Exchange, seconds: float, system: str, operation: str, error_type: str | None, *, from_span: bool
) -> None:
    """Count one operation under the version that serves *exchange* now."""
    track = exchange.span
    if isinstance(track, Track):
        if from_span:
            # A wrapper around the instrumented driver reports the same operation, and always after its span.
            track.traced = {system} if track.traced is None else track.traced | {system}
        elif track.traced is not None and system in track.traced:
            return
        track.db_count += 1
        track.db_s += seconds
        track.show_totals()
    variant = exchange.assignment[0]
    key: DbKey = (variant.rollout, variant.version, system, operation, error_type)
    instruments = foreign.current()
    if instruments is None:
        ledger().db.add(key, seconds)
    else:
        instruments.record_db(key, seconds)


def record_cache(result: Literal["hit", "miss", "error"]) -> None:
    """One cache look-up of the request in hand and its result; outside of one nothing is recorded."""
    exchange = active.get()
    if not isinstance(exchange, Exchange):
        return
    track = exchange.span
    if isinstance(track, Track):
        track.hits += result == "hit"
        track.misses += result == "miss"
        track.show_totals()
    variant = exchange.assignment[0]
    ledger().cache.add((variant.rollout, variant.version, result), 1)
