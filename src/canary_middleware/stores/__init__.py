"""
Where rollouts live: ``open_store(url)``. A backend is imported when its URL is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._core.hints import hint
from ..errors import ConfigError

if TYPE_CHECKING:
    from .._core.ports import Store

__all__ = ["open_store"]

_REDIS: Final = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_SCHEMES: Final = ("memory", "sqlite", *_REDIS)
_KNOWN: Final = "memory: · sqlite:///var/canary.db · redis://host:6379/0"


def open_store(url: str | Store) -> Store:
    """
    The store at *url*; nothing is connected, read or written before its first use.

    - ``memory:`` this process only
    - ``sqlite:///relative/path`` or ``sqlite:////absolute/path``: the processes of one host
    - ``redis://[user:password@]host[:port][/db][?prefix=canary]``, ``rediss://`` with TLS: many hosts
    - ``redis+sentinel://host:26379,host2/master[/db]`` and ``redis+cluster://host:6379,host2`` (``rediss+…`` with TLS)

    Args:
        url: one of these; a Store is returned as it is.
    Raises:
        ConfigError: it is none of these, or what it needs is not installed; says what is right.
    """
    if not isinstance(url, str):
        return url
    scheme, colon, rest = url.partition(":")
    scheme = scheme.strip().lower()
    if colon and scheme == "memory":
        return _memory(rest)
    if colon and scheme == "sqlite":
        return _sqlite(rest, url)
    if colon and scheme in _REDIS:
        return _redis(url)
    raise ConfigError(_unknown(url, scheme, has_scheme=bool(colon)))


def _unknown(url: str, scheme: str, *, has_scheme: bool) -> str:
    if not has_scheme:
        return f"the store is a URL such as {_KNOWN}; {url!r} has no scheme: for a file write sqlite:///{url}"
    # Only the scheme is named: the rest may hold a password.
    return f"no store is called {scheme!r}: {hint(scheme, _SCHEMES, f'known are {_KNOWN}')}"


def _memory(rest: str) -> Store:
    if rest.strip("/"):
        raise ConfigError(f"the store memory:{rest} has a name: write memory: alone; it is never shared")
    from .memory import MemoryStore

    return MemoryStore()


def _sqlite(rest: str, url: str) -> Store:
    from pathlib import Path  # here, because it is a tenth of this package's import time

    if not rest.startswith("///"):
        path = rest.lstrip("/") or "var/canary.db"
        raise ConfigError(
            f"store = {url!r}: three slashes before a relative path (sqlite:///{path}), four before an absolute one "
            f"(sqlite:////{path})"
        )
    path = rest[3:]
    if not path or path.endswith("/"):
        raise ConfigError(f"store = {url!r} names no file: write for example sqlite:///var/canary.db")
    if path == ":memory:":
        raise ConfigError(f"store = {url!r}: a database in memory is not shared; write memory:")
    if "?" in path:
        raise ConfigError(f"store = {url!r}: a file takes no options; write sqlite:///{path.partition('?')[0]}")
    from .sqlite import SQLiteStore

    return SQLiteStore(Path(path))


def _redis(url: str) -> Store:
    from ._redis_url import parse_redis_url

    address = parse_redis_url(url)
    try:
        import redis  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ConfigError(
            f"store = {address.shown!r} needs redis-py, which is not installed: pip install canary-middleware[redis]"
        ) from error
    from .redis import RedisStore

    return RedisStore(address)
