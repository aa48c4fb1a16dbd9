"""
A store in memory that tests take away, make forget, set back, and whose answers they lose.

It keeps the promises of ``_core.ports.Store`` in the shortest way; what the product ships is tested elsewhere.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from canary_middleware.errors import StaleRevision, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from canary_middleware._core.lifecycle.records import Event, Lease, Worker


class FakeStore:
    """
    Attributes:
        is_away: every method raises StoreUnavailable.
        lost_answers: names of methods whose next call is carried out, and whose answer never arrives.
        before_write: called once, before the next write: another writer's chance to be first.
        calls: names of the methods that were called, in order.
    """

    def __init__(self, url: str = "memory:fake") -> None:
        self.url = url
        self.is_away = False
        self.lost_answers: set[str] = set()
        self.before_write: Callable[[], None] | None = None
        self.calls: list[str] = []
        self.generation = 1
        self.records: dict[str, dict[str, Any]] = {}
        self.events: list[Event] = []
        self.alive: dict[str, Worker] = {}
        self.flushes: list[tuple[str, int, int, Mapping[str, Any]]] = []
        self.time_s = 1_700_000_000.0
        self._lock = threading.RLock()

    def forget(self) -> None:
        """Lose everything, as a store without a disk does when it restarts."""
        self.records.clear()
        self.generation += 1000

    def set_back(self, record: Mapping[str, Any]) -> None:
        """Hold an older (or odd) record, as after a backup was played back."""
        self.records[record["name"]] = dict(record)
        self.generation += 1000

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.is_away:
            raise StoreUnavailable(f"{self.url} does not answer") from ConnectionRefusedError(111, "refused")

    def _answered(self, name: str) -> None:
        if name in self.lost_answers:
            self.lost_answers.discard(name)
            raise StoreUnavailable(f"{self.url} did not answer {name}") from TimeoutError()

    def read(self, known: int | None = None) -> tuple[int, Mapping[str, Mapping[str, Any]]] | None:
        with self._lock:
            self._called("read")
            # Through JSON, as in every real store: what JSON cannot hold fails here too.
            return None if known == self.generation else (self.generation, json.loads(json.dumps(self.records)))

    def write(self, record: Mapping[str, Any], *, expect: int | None, event: Event, lease: Lease | None = None) -> None:
        assert lease is None, "leases are for the real stores"
        first, self.before_write = self.before_write, None
        if first is not None:
            first()
        with self._lock:
            self._called("write")
            there = self.records.get(record["name"])
            revision = None if there is None else there["revision"]
            if revision != expect:
                last = self.events[-1]
                raise StaleRevision(
                    f"{last.rollout!r} is at revision {revision}, not {expect}: {last.actor} ({last.verb}) was first"
                )
            self.records[record["name"]] = json.loads(json.dumps(record))
            self.events.append(event)
            self.generation += 1
            self._answered("write")

    def history(self, rollout: str | None = None, limit: int = 100) -> Sequence[Event]:
        self._called("history")
        return [event for event in reversed(self.events) if rollout in (None, event.rollout)][:limit]

    def log(self, event: Event) -> None:
        self._called("log")
        self.events.append(event)

    def beat(self, worker: Worker) -> None:
        self._called("beat")
        self.alive[worker.id] = replace(worker, seen_s=self.time_s)

    def leave(self, worker_id: str) -> None:
        self._called("leave")
        self.alive.pop(worker_id, None)

    def workers(self) -> Sequence[Worker]:
        self._called("workers")
        return list(self.alive.values())

    def now(self) -> float:
        return self.time_s

    def add_counts(self, worker_id: str, sequence: int, window_s: int, counts: Mapping[str, Any]) -> None:
        with self._lock:
            self._called("add_counts")
            if (worker_id, sequence) not in {flush[:2] for flush in self.flushes}:
                self.flushes.append((worker_id, sequence, window_s, json.loads(json.dumps(counts))))
            self._answered("add_counts")

    def counts(self, since_s: int = 0) -> Sequence[tuple[int, Mapping[str, Any]]]:
        self._called("counts")
        return [(window_s, counts) for _, _, window_s, counts in self.flushes if window_s >= since_s]

    def acquire(self, name: str, holder: str, ttl_s: float) -> int | None:
        """Somebody else decides."""
        return None

    def release(self, name: str, holder: str) -> None:
        raise NotImplementedError((name, holder))

    def keep(self, name: str, notes: Mapping[str, Any], *, lease: Lease | None = None) -> None:
        raise NotImplementedError((name, notes, lease))

    def kept(self, name: str) -> Mapping[str, Any] | None:
        raise NotImplementedError(name)

    def close(self) -> None:
        self.calls.append("close")
