"""
A store in a file: the processes of one host share it. WAL, one connection per process, every change one transaction.
"""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._core.lifecycle.records import stale
from .._core.tallies import merge_plain
from ..errors import StoreUnavailable
from . import _codec
from ._fork import ForkSafe
from ._sqlite_errors import explain
from ._sqlite_schema import BUSY_S, prepare
from ._windows import KEEP_S, SWEEP_S, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._core.lifecycle.records import Event, Lease, Worker

_SEQUENCES_KEPT_S: Final = 86_400
"""A flush whose answer was lost may come again this long after; by then its worker has left or died."""


def _begin_writing(connection: sqlite3.Connection) -> None:
    """
    Take the file's lock, waiting BUSY_S seconds at most.

    Asked for in short, uneven steps: SQLite's own waiting grows to 100 ms a step, and of several busy writers one
    could then come too late every time.
    """
    deadline = time.monotonic() + BUSY_S
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(random.uniform(0.0005, 0.005))  # noqa: S311 - not a secret
            else:
                return
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_S * 1000)}")


class SQLiteStore(ForkSafe):
    """
    Shared by the processes of one host; on a network file system its locks cannot be trusted: use Redis there.

    A file that somebody deletes or replaces is noticed at the next call, and another is made, of another generation.
    Nobody waits longer than a second for a lock. A change is on the disk when ``write`` returns (``synchronous=FULL``);
    heartbeats and counts survive a killed process, and the last of them may be lost with the host's power.

    Args:
        path: the file; it and its directory are made when first used.
        clock: Unix seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        # As it is now: a process that becomes a daemon changes its directory.
        self.path = Path(path).absolute()
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    # -- connection -------------------------------------------------------------------------------------------------

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection, with the lock held; what goes wrong comes out as StoreUnavailable."""
        with self._lock:
            try:
                yield self._current()
            except (sqlite3.Error, OSError) as error:
                # Whatever it was, the next call begins afresh: the operator may have replaced the file.
                self._disconnect()
                raise StoreUnavailable(explain(self.path, error)) from error

    def _current(self) -> sqlite3.Connection:
        if self._connection is not None and self._identity is not None and self._identity == _identity(self.path):
            return self._connection
        self._disconnect()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, _identity(self.path)
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _transaction(self, *, is_durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A write: all of it or nothing. The file's lock is taken at once, so that nothing read is outdated."""
        with self._connected() as connection:
            connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            _begin_writing(connection)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    # -- state ------------------------------------------------------------------------------------------------------

    def read(self, known: int | None = None) -> tuple[int, Mapping[str, Mapping[str, Any]]] | None:
        """One look at the file's inode and one at one row, where nothing has changed: some 10 µs."""
        with self._connected() as connection:
            if known is not None and known == _generation(connection):
                return None
            connection.execute("BEGIN")
            try:
                generation = _generation(connection)
                rows = connection.execute("SELECT name, record FROM rollouts").fetchall()
            finally:
                connection.execute("ROLLBACK")
        return generation, {name: _codec.loads(text) for name, text in rows}

    def write(self, record: Mapping[str, Any], *, expect: int | None, event: Event, lease: Lease | None = None) -> None:
        name, text = record["name"], _codec.dumps(record)
        with self._transaction(is_durable=True) as connection:
            row = connection.execute("SELECT revision FROM rollouts WHERE name=?", (name,)).fetchone()
            there = None if row is None else row[0]
            if there != expect:
                raise stale(name, there, expect, next(iter(_events(connection, name, 1)), None))
            if lease is not None and self._held(connection, lease.name) != (lease.holder, lease.token):
                raise _codec.lost(lease)
            connection.execute(
                "INSERT INTO rollouts VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET revision=excluded.revision, record=excluded.record",
                (name, record["revision"], text),
            )
            _append(connection, event)
            connection.execute("UPDATE meta SET value=value+1 WHERE key='generation'")

    def history(self, rollout: str | None = None, limit: int = 100) -> Sequence[Event]:
        with self._connected() as connection:
            return _events(connection, rollout, limit)

    def log(self, event: Event) -> None:
        with self._transaction(is_durable=True) as connection:
            _append(connection, event)

    # -- workers ----------------------------------------------------------------------------------------------------

    def beat(self, worker: Worker) -> None:
        now_s, text = self._clock(), _codec.worker_to_text(worker)
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", (worker.id, now_s, text))
            # Also those of the future: the clock was set back, and who lives beats again in a moment.
            connection.execute("DELETE FROM workers WHERE abs(seen_s - ?) > ?", (now_s, _codec.WORKER_TTL_S))

    def leave(self, worker_id: str) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM workers WHERE id=?", (worker_id,))
            connection.execute("DELETE FROM sequences WHERE worker=?", (worker_id,))

    def workers(self) -> Sequence[Worker]:
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT worker, seen_s FROM workers WHERE abs(seen_s - ?) <= ? ORDER BY id",
                (self._clock(), _codec.WORKER_TTL_S),
            ).fetchall()
        return [_codec.worker_from_text(text, seen_s) for text, seen_s in rows]

    def now(self) -> float:
        """The host's clock; touches nothing."""
        return self._clock()

    # -- counts -----------------------------------------------------------------------------------------------------

    def add_counts(self, worker_id: str, sequence: int, window_s: int, counts: Mapping[str, Any]) -> None:
        now_s = self._clock()
        plain = _codec.loads(_codec.dumps(counts))
        with self._transaction() as connection:
            row = connection.execute("SELECT sequence FROM sequences WHERE worker=?", (worker_id,)).fetchone()
            if row is not None and sequence <= row[0]:
                return
            connection.execute("INSERT OR REPLACE INTO sequences VALUES (?, ?, ?)", (worker_id, sequence, now_s))
            _put(connection, window_s, plain, now_s)
            _sweep(connection, now_s)

    def counts(self, since_s: int = 0) -> Sequence[tuple[int, Mapping[str, Any]]]:
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT begin, counts FROM windows WHERE begin >= ? ORDER BY begin", (since_s,)
            ).fetchall()
        return [(begin, _codec.loads(text)) for begin, text in rows]

    # -- leases -----------------------------------------------------------------------------------------------------

    def acquire(self, name: str, holder: str, ttl_s: float) -> int | None:
        with self._transaction() as connection:
            there, token = self._held(connection, name)
            if there and there != holder:
                return None
            # Read under the lock: whoever held it meanwhile must not seem to have begun in our future.
            now_s = self._clock()
            if not there:
                # From the clock, so that tokens also grow from one file to the next.
                token = max(token + 1, int(now_s * 1e6))
            connection.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)", (name, holder, token, now_s, ttl_s)
            )
            return int(token)

    def _held(self, connection: sqlite3.Connection, name: str) -> tuple[str, int]:
        """Holder (empty where nobody does) and last token of a lease. Call with the file's lock held."""
        row = connection.execute("SELECT holder, token, begun_s, ttl_s FROM leases WHERE name=?", (name,)).fetchone()
        holder, token, begun_s, ttl_s = row or ("", 0, 0.0, 0.0)
        # One that began in the future is over: the clock was set back, and it would last that much longer.
        return (holder if begun_s <= self._clock() < begun_s + ttl_s else ""), int(token)

    def release(self, name: str, holder: str) -> None:
        with self._transaction() as connection:
            # The row stays, for its token.
            connection.execute("UPDATE leases SET holder='' WHERE name=? AND holder=?", (name, holder))

    # -- notes ------------------------------------------------------------------------------------------------------

    def keep(self, name: str, notes: Mapping[str, Any], *, lease: Lease | None = None) -> None:
        text = _codec.dumps(notes)
        with self._transaction() as connection:
            if lease is not None and self._held(connection, lease.name) != (lease.holder, lease.token):
                raise _codec.lost(lease)
            connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, text))

    def kept(self, name: str) -> Mapping[str, Any] | None:
        with self._connected() as connection:
            row = connection.execute("SELECT notes FROM notes WHERE name=?", (name,)).fetchone()
        return None if row is None else _codec.loads(row[0])

    def close(self) -> None:
        with self._lock:
            self._disconnect()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there now; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _generation(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key='generation'").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("the table meta has lost its generation")
    return int(row[0])


def _append(connection: sqlite3.Connection, event: Event) -> None:
    connection.execute(
        "INSERT INTO events (rollout, event) VALUES (?, ?)", (event.rollout, _codec.event_to_text(event))
    )
    connection.execute(
        "DELETE FROM events WHERE rollout=? AND id <= "
        "(SELECT id FROM events WHERE rollout=? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (event.rollout, event.rollout, _codec.EVENTS_KEPT),
    )


def _events(connection: sqlite3.Connection, rollout: str | None, limit: int) -> list[Event]:
    where, of = ("", ()) if rollout is None else ("WHERE rollout=?", (rollout,))
    query = f"SELECT event FROM events {where} ORDER BY id DESC LIMIT ?"  # noqa: S608 - two constants
    return [_codec.event_from_text(text) for (text,) in connection.execute(query, (*of, max(0, limit)))]


def _put(connection: sqlite3.Connection, window_s: int, counts: Mapping[str, Any], now_s: float) -> None:
    begin = place(window_s, now_s)
    if begin is None:
        return
    row = connection.execute("SELECT counts FROM windows WHERE begin=?", (begin,)).fetchone()
    total: dict[str, Any] = {} if row is None else _codec.loads(row[0])
    merge_plain(total, counts)
    connection.execute("INSERT OR REPLACE INTO windows VALUES (?, ?)", (begin, _codec.dumps(total)))


def _sweep(connection: sqlite3.Connection, now_s: float) -> None:
    """Once a minute: merge the windows that have aged, drop those that have expired."""
    (swept_s,) = connection.execute("SELECT value FROM meta WHERE key='swept_s'").fetchone()
    if abs(now_s - swept_s) < SWEEP_S:
        return
    connection.execute("UPDATE meta SET value=? WHERE key='swept_s'", (int(now_s),))
    connection.execute("DELETE FROM windows WHERE begin < ?", (now_s - KEEP_S,))
    connection.execute("DELETE FROM sequences WHERE added_s < ?", (now_s - _SEQUENCES_KEPT_S,))
    for (begin,) in connection.execute("SELECT begin FROM windows").fetchall():
        if place(begin, now_s) != begin:
            (text,) = connection.execute("SELECT counts FROM windows WHERE begin=?", (begin,)).fetchone()
            connection.execute("DELETE FROM windows WHERE begin=?", (begin,))
            _put(connection, begin, _codec.loads(text), now_s)
