"""
What a failure of SQLite means to the operator: what is wrong with the file, and what to do about it.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_LOCKED: Final = (
    "is locked by another process for more than a second: find it with `fuser {path}` and end its transaction or the "
    "process (a backup tool, an open database browser)"
)
_READ_ONLY: Final = (
    "is read-only for this user: give it write access to the file and to its directory {parent} (SQLite keeps two "
    "more files beside it)"
)
_CORRUPT: Final = (
    "is damaged or no SQLite database: move it away ({path} and the files {path}-wal and {path}-shm), and the workers "
    "put their last known state into a new one; the audit trail comes back with a backup only"
)
_FULL: Final = "cannot be written, the disk is full or failing: free space on the file system of {parent}"
_CANNOT_OPEN: Final = (
    "cannot be opened: it must be a file, in a directory that exists or can be made, writable by this user"
)
_GONE: Final = "has lost tables: restore it from a backup, or move it away and the workers make a new one"

_BY_CODE: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: _CORRUPT,
    sqlite3.SQLITE_NOTADB: _CORRUPT,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_IOERR: _FULL,
    sqlite3.SQLITE_CANTOPEN: _CANNOT_OPEN,
    sqlite3.SQLITE_ERROR: _GONE,
}


def explain(path: Path, error: sqlite3.Error | OSError) -> str:
    """A sentence about *path*: what happened, and who must do what."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, OSError):
        remedy = _CANNOT_OPEN
    else:
        # The low byte is the kind, the rest its detail.
        remedy = _GONE if code is None else _BY_CODE.get(code & 0xFF, "failed")
    return f"the store {path} {remedy.format(path=path, parent=path.parent)} ({error})"
