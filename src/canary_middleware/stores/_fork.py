"""
Locks and connections across a fork: the child begins without any, and with no lock that a vanished thread holds.

SQLite counts its file locks per process in C; a connection that is open while the process forks makes the child
believe in locks that only its parent has ("How To Corrupt An SQLite Database File", §2.6).
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet


class ForkSafe:
    """Something with a lock, and perhaps a connection, that a fork must find at rest."""

    def __init__(self) -> None:
        # Not reentrant: a lock that the forking thread took may be released by the child's only thread.
        self._lock = threading.Lock()
        _alive.add(self)

    def _disconnect(self) -> None:
        """Let go of the connection; the lock is held."""


_alive: WeakSet[ForkSafe] = WeakSet()
_resting: list[Any] = []


def _before() -> None:
    for one in list(_alive):
        one._lock.acquire()  # noqa: SLF001 - the hooks are part of the class
        _resting.append(one)
        one._disconnect()  # noqa: SLF001


def _after() -> None:
    while _resting:
        _resting.pop()._lock.release()  # noqa: SLF001


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
