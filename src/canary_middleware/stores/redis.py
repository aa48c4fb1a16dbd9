"""
A store in Redis (6.2 or later), shared by the processes of many hosts: one server, one behind Sentinels, or a Cluster.

All keys begin with ``{canary}:`` (``?prefix=``), so that they live on one node of a cluster; everything that must
happen at once is one script. No call waits longer than about a second and a half, and none is tried more than twice.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .._core.lifecycle.records import stale
from ..errors import StoreUnavailable
from . import _codec
from . import _redis_scripts as scripts
from ._fork import ForkSafe
from ._redis_errors import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._core.lifecycle.records import Event, Lease, Worker
    from ._redis_url import RedisAddress

TIMEOUT_S: Final = 0.5
"""For connecting, and for each answer."""
_CLOCK_KEPT_S: Final = 10.0
"""How long the difference between Redis's clock and this host's monotonic one is taken as known."""
_SEQUENCES_KEPT_S: Final = 86_400
"""A flush whose answer was lost may come again this long after; by then its worker has left or died."""


class RedisStore(ForkSafe):
    """
    Shared by the processes of many hosts.

    An idle worker that reads four times and flushes once a second, and beats every two, sends 4.6 commands per second.
    A server that was emptied, or came back empty, has another generation. What it loses with its disk (``appendonly``,
    ``save``) is the operator's choice; the workers put the rollouts' state back, the audit trail is gone.

    Args:
        address: from ``parse_redis_url``.
    """

    def __init__(self, address: RedisAddress) -> None:
        super().__init__()
        self._address = address
        self._pid = -1
        self._client: Any = None  # Any: redis-py's clients for one server and for a cluster have no type in common
        self._ahead_s = 0.0
        self._clock_read_s = float("-inf")

    @property
    def url(self) -> str:
        return self._address.shown

    # -- connection -------------------------------------------------------------------------------------------------

    def _key(self, *parts: str) -> str:
        return f"{{{self._address.prefix}}}:{':'.join(parts)}"

    def _call(self, command: Callable[[Any], Any]) -> Any:  # Any: see _client; what Redis answers
        """
        Carry out *command* on the client; once more where the connection turned out to be dead, which costs nothing.

        Not after a timeout: a slow server is not helped by being asked again.
        """
        for attempt in (1, 2):
            try:
                return command(self._connected())
            except redis.TimeoutError as error:
                raise StoreUnavailable(explain(self.url, error)) from error
            except redis.ConnectionError as error:
                # A wrong password is a ConnectionError too, to redis-py.
                if attempt == 2 or isinstance(error, redis.AuthenticationError):
                    raise StoreUnavailable(explain(self.url, error)) from error
            # redis-py's error for a cluster of which no node answers is no RedisError.
            except (redis.RedisError, redis.exceptions.RedisClusterException, OSError) as error:  # pyright: ignore[reportAttributeAccessIssue]
                raise StoreUnavailable(explain(self.url, error)) from error
        raise AssertionError("unreachable")  # pragma: no cover

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._client, self._pid = _client(self._address), os.getpid()
            return self._client

    def _disconnect(self) -> None:
        """Called before a fork: the child has a client of its own, and redis-py looks after its sockets by itself."""

    def _script(self, script: str, keys: Sequence[str], *arguments: str | float) -> Any:
        """One command; one more where Redis has not seen *script* since it started."""

        def command(client: Any) -> Any:
            try:
                return client.evalsha(_sha(script), len(keys), *keys, *arguments)
            except redis.exceptions.NoScriptError:  # pyright: ignore[reportAttributeAccessIssue]
                return client.eval(script, len(keys), *keys, *arguments)

        return self._call(command)

    # -- state ------------------------------------------------------------------------------------------------------

    def read(self, known: int | None = None) -> tuple[int, Mapping[str, Mapping[str, Any]]] | None:
        """One command (HGET) where nothing has changed, two (and HGETALL) where something has."""
        key = self._key("rollouts")
        if known is not None:
            generation = self._call(lambda client: client.hget(key, "generation"))
            if int(generation or 0) == known:
                return None
        # State and generation are one hash, so that one command reads both as of one moment.
        plain = self._call(lambda client: client.hgetall(key))
        records = {name[2:]: _codec.loads(text) for name, text in plain.items() if name.startswith("r:")}
        return int(plain.get("generation", 0)), records

    def write(self, record: Mapping[str, Any], *, expect: int | None, event: Event, lease: Lease | None = None) -> None:
        """One command. Safe to repeat: one that had been carried out already is recognised by its line in the trail."""
        name, revision = record["name"], record["revision"]
        there = self._script(
            scripts.WRITE,
            [
                *(self._key("rollouts"), self._key("events"), self._key("events", name)),
                *(self._key("lease", lease.name if lease else ""), self._key("tokens")),
            ],
            name,
            "" if expect is None else expect,
            revision,
            _codec.dumps(record),
            _codec.event_to_text(event, nonce=secrets.token_hex(8)),
            _codec.fresh_generation(),
            *((lease.name, lease.holder, lease.token) if lease else ()),
        )
        if there is not None and lease is not None and len(there) == 1:
            raise _codec.lost(lease)
        if there is not None:
            last = _codec.event_from_text(there[1]) if there[1] else None
            raise stale(name, int(there[0]) if there[0] else None, expect, last)

    def history(self, rollout: str | None = None, limit: int = 100) -> Sequence[Event]:
        """One command."""
        if limit <= 0:
            return []
        key = self._key("events") if rollout is None else self._key("events", rollout)
        texts = self._call(lambda client: client.lrange(key, 0, limit - 1))
        return [_codec.event_from_text(text) for text in texts]

    def log(self, event: Event) -> None:
        """One command."""
        text = _codec.event_to_text(event, nonce=secrets.token_hex(8))
        self._script(scripts.LOG, [self._key("events"), self._key("events", event.rollout)], text)

    # -- workers ----------------------------------------------------------------------------------------------------

    def beat(self, worker: Worker) -> None:
        """One command (SET with expiry); one more the first time, or after Redis has forgotten the worker."""
        key, text = self._key("worker", worker.id), _codec.worker_to_text(worker)
        before = self._call(lambda client: client.set(key, text, ex=_codec.WORKER_TTL_S, get=True))
        if before is None:
            self._script(scripts.JOIN, [self._key("workers"), key], worker.id, self._key("worker", ""))

    def leave(self, worker_id: str) -> None:
        """Two commands."""
        keys = [self._key("worker", worker_id), self._key("sequence", worker_id)]
        self._call(lambda client: client.delete(*keys))
        self._call(lambda client: client.srem(self._key("workers"), worker_id))

    def workers(self) -> Sequence[Worker]:
        """One command."""
        (seconds, micros), *found = self._script(scripts.WORKERS, [self._key("workers")], self._key("worker", ""))
        now_s = int(seconds) + int(micros) / 1e6
        # A worker's key lives a minute from its last beat on: what is left of that says when it was.
        alive = [
            _codec.worker_from_text(text, now_s - _codec.WORKER_TTL_S + int(left_ms) / 1000)
            for text, left_ms in zip(found[::2], found[1::2], strict=True)
        ]
        return sorted(alive, key=lambda worker: worker.id)

    def now(self) -> float:
        """Redis's clock. One command (TIME) every ten seconds, in between reckoned from this host's monotonic clock."""
        begun = time.monotonic()
        if begun - self._clock_read_s < _CLOCK_KEPT_S:
            return begun + self._ahead_s
        seconds, micros = self._script(scripts.TIME, [self._key("rollouts")])
        ended = time.monotonic()
        # It was read half-way between question and answer, give or take.
        self._ahead_s = int(seconds) + int(micros) / 1e6 - (begun + ended) / 2
        self._clock_read_s = ended
        return ended + self._ahead_s

    # -- counts -----------------------------------------------------------------------------------------------------

    def add_counts(self, worker_id: str, sequence: int, window_s: int, counts: Mapping[str, Any]) -> None:
        """One command."""
        pairs = [text for series, numbers in counts.items() for text in (series, _codec.dumps(numbers))]
        self._script(
            scripts.ADD_COUNTS,
            [self._key("windows"), self._key("swept"), self._key("sequence", worker_id)],
            self._key("window", ""),
            window_s,
            sequence,
            _SEQUENCES_KEPT_S,
            *pairs,
        )

    def counts(self, since_s: int = 0) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """One command; a whole week is some hundred windows."""
        found = self._script(scripts.COUNTS, [self._key("windows")], self._key("window", ""), since_s)
        return [
            (int(begin), {series: _codec.loads(text) for series, text in zip(flat[::2], flat[1::2], strict=True)})
            for begin, flat in zip(found[::2], found[1::2], strict=True)
        ]

    # -- leases -----------------------------------------------------------------------------------------------------

    def acquire(self, name: str, holder: str, ttl_s: float) -> int | None:
        """One command."""
        keys = [self._key("lease", name), self._key("tokens")]
        token = self._script(scripts.ACQUIRE, keys, name, holder, max(1, round(ttl_s * 1000)))
        return None if token is None else int(token)

    def release(self, name: str, holder: str) -> None:
        """One command."""
        self._script(scripts.RELEASE, [self._key("lease", name)], holder)

    # -- notes ------------------------------------------------------------------------------------------------------

    def keep(self, name: str, notes: Mapping[str, Any], *, lease: Lease | None = None) -> None:
        """One command."""
        keys = [self._key("notes"), self._key("lease", lease.name if lease else ""), self._key("tokens")]
        held = (lease.name, lease.holder, lease.token) if lease else ()
        lost = self._script(scripts.KEEP, keys, name, _codec.dumps(notes), *held)
        if lost is not None and lease is not None:
            raise _codec.lost(lease)

    def kept(self, name: str) -> Mapping[str, Any] | None:
        """One command."""
        key = self._key("notes")
        text = self._call(lambda client: client.hget(key, name))
        return None if text is None else _codec.loads(text)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            is_ours = self._pid == os.getpid()
        if client is not None and is_ours:
            client.close()


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _client(address: RedisAddress) -> Any:  # Any: redis-py's clients for one server and for a cluster differ
    """A client that has not connected yet (a cluster's has)."""
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "decode_responses": True,
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        # We know better than redis-py what may be tried again, and after what.
        "retry": Retry(NoBackoff(), 0),
    }
    if address.is_tls:
        options |= {"ssl": True, **dict(address.tls)}
    if address.kind == "cluster":
        from redis.cluster import ClusterNode, RedisCluster

        # redis-py's clusters and sentinels have no types.
        nodes = [ClusterNode(host, port) for host, port in address.hosts]  # type: ignore[no-untyped-call]
        # One: a slot that has just moved is asked for again at its new place.
        return RedisCluster(startup_nodes=nodes, **{**options, "retry": Retry(NoBackoff(), 1)})
    if address.kind == "sentinel":
        from redis.sentinel import Sentinel

        asking: dict[str, Any] = {
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "username": address.sentinel_username,
            "password": address.sentinel_password,
        }
        sentinel = Sentinel(list(address.hosts), sentinel_kwargs=asking, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.master, db=address.db)  # type: ignore[no-untyped-call]
    ((host, port),) = address.hosts
    return redis.Redis(host=host, port=port, db=address.db, **options)
