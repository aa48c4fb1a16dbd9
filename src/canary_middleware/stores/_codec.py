"""
Records, events and workers as the text that every store keeps, and what all stores say of a lost lease.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from .._core.lifecycle.records import Event, Worker
from ..errors import LeaseLost, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.lifecycle.records import Lease

EVENTS_KEPT = 10_000
"""So many lines of a rollout's audit trail, the newest; more than a year of thirty a day."""
WORKER_TTL_S = 60
"""A worker that has been silent for longer is forgotten."""


def dumps(plain: object) -> str:
    """*plain* as compact JSON. Raises TypeError for what JSON cannot hold."""
    return json.dumps(plain, separators=(",", ":"))


def loads(text: str) -> Any:  # Any: whatever JSON held
    """What ``dumps`` wrote. Raises StoreUnavailable where somebody else has written there."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreUnavailable(
            f"the store holds something that this package did not write ({text[:40]!r}): restore it from a backup, "
            "or give the canary a store of its own"
        ) from error


def event_to_text(event: Event, *, nonce: str | None = None) -> str:
    """*event* as text; *nonce* tells apart two that are otherwise alike."""
    plain = asdict(event)
    if nonce is not None:
        plain["nonce"] = nonce
    return dumps(plain)


def event_from_text(text: str) -> Event:
    """What ``event_to_text`` wrote. Fields that this release does not know are left out."""
    return Event(**_known(Event, loads(text)))


def worker_to_text(worker: Worker) -> str:
    """*worker* as text."""
    return dumps(asdict(worker))


def worker_from_text(text: str, seen_s: float) -> Worker:
    """What ``worker_to_text`` wrote, last heard of at *seen_s* by the store's clock."""
    return Worker(**{**_known(Worker, loads(text)), "seen_s": seen_s})


def _known(kind: type[Event | Worker], plain: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in plain.items() if key in names}


def fresh_generation() -> int:
    """
    The first generation of a new store: a random epoch above a counter of 32 bits.

    A store that was emptied begins anew, and must not by chance reach the number that a worker remembers.
    """
    return (secrets.randbits(30) + 1) << 32


def lost(lease: Lease) -> LeaseLost:
    """The error for a writer whose lease has ended."""
    return LeaseLost(
        f"{lease.holder!r} does not hold the lease {lease.name!r} any longer: nothing was changed; whoever holds it "
        "decides anew"
    )
