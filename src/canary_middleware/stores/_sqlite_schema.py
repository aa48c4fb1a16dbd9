"""
The tables of a store's file, made at its first use, and what tells such a file from any other.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Final

from .._core.lifecycle.records import NewerSchema
from ..errors import StoreUnavailable
from ._codec import fresh_generation

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = 1
"""Version of the tables below, in ``PRAGMA user_version``."""
APPLICATION_ID: Final = 0x63616E79
"""``cany``, in ``PRAGMA application_id``: no other application's file is written to."""
BUSY_S: Final = 1.0
"""How long a call waits for the file's lock."""

_TABLES: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE rollouts (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, record TEXT NOT NULL)",
    "CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, rollout TEXT NOT NULL, event TEXT NOT NULL)",
    "CREATE INDEX events_of ON events (rollout, id)",
    "CREATE TABLE workers (id TEXT PRIMARY KEY, seen_s REAL NOT NULL, worker TEXT NOT NULL)",
    "CREATE TABLE windows (begin INTEGER PRIMARY KEY, counts TEXT NOT NULL)",
    "CREATE TABLE sequences (worker TEXT PRIMARY KEY, sequence INTEGER NOT NULL, added_s REAL NOT NULL)",
    "CREATE TABLE notes (name TEXT PRIMARY KEY, notes TEXT NOT NULL)",
    "CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, token INTEGER, begun_s REAL, ttl_s REAL)",
)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """
    Make *connection* ready for use, and the tables where there are none.

    Raises:
        NewerSchema: a newer release has written the file.
        StoreUnavailable: it belongs to another application.
        sqlite3.Error: it cannot be read or written.
    """
    if not _is_ours_at_once(connection, path):
        _write_ahead(connection)
        _create(connection, path)
    # Checkpoint early and cut the log back: the file stays the size of what it holds.
    connection.execute("PRAGMA wal_autocheckpoint=250")
    connection.execute("PRAGMA journal_size_limit=1048576")


def _is_ours_at_once(connection: sqlite3.Connection, path: Path) -> bool:
    """The same of one snapshot: between two readings another process may make the tables."""
    connection.execute("BEGIN")
    try:
        return _is_ours(connection, path)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there. Raises where they are another's, or a newer release's."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if schema > SCHEMA:
            raise NewerSchema(
                f"{path} has schema {schema}, this release reads up to {SCHEMA}: upgrade this process, or name "
                "another file in CANARY_STORE"
            )
        return True
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables or application or schema:
        raise StoreUnavailable(
            f"{path} is another application's database, nothing was written to it: give the canary a file of its own, "
            "such as sqlite:///var/canary.db"
        )
    return False


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Readers must not wait for a writer. SQLite does not wait by itself while another process does the same."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _create(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster.
        if not _is_ours(connection, path):
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO meta VALUES ('generation', ?), ('swept_s', 0)",
                (fresh_generation(),),
            )
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
