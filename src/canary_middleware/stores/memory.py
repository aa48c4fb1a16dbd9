"""
A store in this process: for tests, for one process, and as the plainest statement of what a store does.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

from .._core.lifecycle.records import stale
from .._core.tallies import merge_plain
from . import _codec
from ._fork import ForkSafe
from ._windows import SWEEP_S, place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._core.lifecycle.records import Event, Lease, Worker


class MemoryStore(ForkSafe):
    """
    Shared by the threads of one process, gone with it. After a fork each process has a copy of its own.

    Args:
        clock: Unix seconds.
    """

    url = "memory:"

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._generation = _codec.fresh_generation()
        # Texts, as in every other store: what JSON cannot hold fails here too, and nobody changes what was handed in.
        self._records: dict[str, tuple[int, str]] = {}
        # By rollout, each with its place in the whole trail.
        self._events: dict[str, deque[tuple[int, str]]] = {}
        self._written = count()
        self._workers: dict[str, tuple[float, str]] = {}
        self._windows: dict[int, dict[str, Any]] = {}
        self._notes: dict[str, str] = {}
        self._sequences: dict[str, int] = {}
        self._swept_s = clock()
        self._leases: dict[str, tuple[str, float]] = {}
        self._tokens: dict[str, int] = {}

    def read(self, known: int | None = None) -> tuple[int, Mapping[str, Mapping[str, Any]]] | None:
        with self._lock:
            if known == self._generation:
                return None
            texts = {name: text for name, (_, text) in self._records.items()}
            generation = self._generation
        return generation, {name: _codec.loads(text) for name, text in texts.items()}

    def write(self, record: Mapping[str, Any], *, expect: int | None, event: Event, lease: Lease | None = None) -> None:
        name, text, line = record["name"], _codec.dumps(record), _codec.event_to_text(event)
        with self._lock:
            there, _ = self._records.get(name, (None, ""))
            if there != expect:
                last = next(iter(self._last(name, 1)), None)
                raise stale(name, there, expect, last)
            if lease is not None and not self._holds(lease):
                raise _codec.lost(lease)
            self._records[name] = (record["revision"], text)
            self._append(event.rollout, line)
            self._generation += 1

    def history(self, rollout: str | None = None, limit: int = 100) -> Sequence[Event]:
        with self._lock:
            return self._last(rollout, limit)

    def _last(self, rollout: str | None, limit: int) -> list[Event]:
        lines = [line for name, own in self._events.items() if rollout in (None, name) for line in own]
        return [_codec.event_from_text(line) for _, line in sorted(lines, reverse=True)[: max(0, limit)]]

    def log(self, event: Event) -> None:
        line = _codec.event_to_text(event)
        with self._lock:
            self._append(event.rollout, line)

    def _append(self, rollout: str, line: str) -> None:
        own = self._events.setdefault(rollout, deque(maxlen=_codec.EVENTS_KEPT))
        own.append((next(self._written), line))

    def beat(self, worker: Worker) -> None:
        text = _codec.worker_to_text(worker)
        with self._lock:
            self._workers[worker.id] = (self._clock(), text)
            self._workers = {id_: self._workers[id_] for id_ in self._heard_of()}

    def _heard_of(self) -> list[str]:
        now_s = self._clock()
        return [id_ for id_, (seen_s, _) in self._workers.items() if abs(now_s - seen_s) <= _codec.WORKER_TTL_S]

    def leave(self, worker_id: str) -> None:
        with self._lock:
            self._workers.pop(worker_id, None)
            self._sequences.pop(worker_id, None)

    def workers(self) -> Sequence[Worker]:
        with self._lock:
            found = [self._workers[id_] for id_ in self._heard_of()]
        return [_codec.worker_from_text(text, seen_s) for seen_s, text in found]

    def now(self) -> float:
        return self._clock()

    def add_counts(self, worker_id: str, sequence: int, window_s: int, counts: Mapping[str, Any]) -> None:
        plain = _codec.loads(_codec.dumps(counts))
        with self._lock:
            if sequence <= self._sequences.get(worker_id, -1):
                return
            self._sequences[worker_id] = sequence
            now_s = self._clock()
            self._put(window_s, plain, now_s)
            if abs(now_s - self._swept_s) >= SWEEP_S:
                self._swept_s = now_s
                windows, self._windows = self._windows, {}
                for begin, there in windows.items():
                    self._put(begin, there, now_s)

    def _put(self, window_s: int, counts: Mapping[str, Any], now_s: float) -> None:
        begin = place(window_s, now_s)
        if begin is not None:
            merge_plain(self._windows.setdefault(begin, {}), counts)

    def counts(self, since_s: int = 0) -> Sequence[tuple[int, Mapping[str, Any]]]:
        with self._lock:
            return [
                (begin, {series: dict(numbers) for series, numbers in self._windows[begin].items()})
                for begin in sorted(self._windows)
                if begin >= since_s
            ]

    def acquire(self, name: str, holder: str, ttl_s: float) -> int | None:
        with self._lock:
            now_s = time.monotonic()
            there, expires_s = self._leases.get(name, ("", 0.0))
            is_free = now_s >= expires_s
            if not is_free and there != holder:
                return None
            if is_free:
                self._tokens[name] = self._tokens.get(name, 0) + 1
            self._leases[name] = (holder, now_s + ttl_s)
            return self._tokens[name]

    def _holds(self, lease: Lease) -> bool:
        holder, expires_s = self._leases.get(lease.name, ("", 0.0))
        return holder == lease.holder and time.monotonic() < expires_s and self._tokens[lease.name] == lease.token

    def release(self, name: str, holder: str) -> None:
        with self._lock:
            if self._leases.get(name, ("", 0.0))[0] == holder:
                del self._leases[name]

    def keep(self, name: str, notes: Mapping[str, Any], *, lease: Lease | None = None) -> None:
        text = _codec.dumps(notes)
        with self._lock:
            if lease is not None and not self._holds(lease):
                raise _codec.lost(lease)
            self._notes[name] = text

    def kept(self, name: str) -> Mapping[str, Any] | None:
        with self._lock:
            text = self._notes.get(name)
        return None if text is None else _codec.loads(text)

    def close(self) -> None:
        """Nothing to close: what it holds lives as long as the object."""
