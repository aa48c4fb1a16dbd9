"""
The URL of a Redis store, taken apart, and put together again without its passwords.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from .._core.hints import hint
from ..errors import ConfigError

DEFAULT_PREFIX: Final = "canary"
_PORTS: Final = {"single": 6379, "cluster": 6379, "sentinel": 26379}
_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile")
_OPTIONS: Final = ("prefix", "sentinel_password", "sentinel_username", *_TLS_OPTIONS)
_EXAMPLES: Final = {
    "single": "redis://host:6379/0",
    "sentinel": "redis+sentinel://host:26379,host2/master/0",
    "cluster": "redis+cluster://host:6379,host2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """
    Where a Redis store is.

    Attributes:
        kind: ``single``, ``sentinel`` or ``cluster``.
        hosts: (host, port) of the server, of the sentinels, or of some nodes.
        master: what the sentinels call the server.
        prefix: all keys begin with ``{prefix}:``.
        tls: options of redis-py for the certificates.
    """

    kind: str
    is_tls: bool
    hosts: tuple[tuple[str, int], ...]
    db: int
    master: str
    prefix: str
    tls: tuple[tuple[str, str], ...]
    username: str | None
    password: str | None
    sentinel_username: str | None
    sentinel_password: str | None

    def __repr__(self) -> str:
        return f"RedisAddress({self.shown!r})"

    @property
    def shown(self) -> str:
        """The URL without passwords: for errors, logs and the last-known file's name."""
        scheme = ("rediss" if self.is_tls else "redis") + ("" if self.kind == "single" else f"+{self.kind}")
        user = f"{quote(self.username, safe='')}@" if self.username else ""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        master = f"/{quote(self.master, safe='')}" if self.kind == "sentinel" else ""
        database = "" if self.kind == "cluster" else f"/{self.db}"
        prefix = "" if self.prefix == DEFAULT_PREFIX else f"?prefix={quote(self.prefix, safe='')}"
        return f"{scheme}://{user}{hosts}{master}{database}{prefix}"


def parse_redis_url(url: str) -> RedisAddress:
    """
    Take *url* apart.

    Raises:
        ConfigError: it is none; names the part that is wrong, never a password.
    """
    scheme, slashes, rest = url.partition("://")
    scheme = scheme.strip().lower()
    if not slashes:
        raise ConfigError(f"the store's URL has no two slashes: write {_EXAMPLES['single']}")
    kind = scheme.partition("+")[2] or "single"
    # urlsplit refuses several hosts with ports only when asked for the port, which we are not.
    parts = urlsplit(f"redis://{rest}")
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, has_password, password = userinfo.partition(":")
    options = _options(parts.query, is_tls=scheme.startswith("rediss"))
    master, db = _path(parts.path, kind)
    return RedisAddress(
        kind=kind,
        is_tls=scheme.startswith("rediss"),
        hosts=_hosts(hosts, kind),
        db=db,
        master=master,
        prefix=_prefix(options.get("prefix", DEFAULT_PREFIX)),
        tls=tuple((key, value) for key, value in options.items() if key in _TLS_OPTIONS),
        username=unquote(username) or None,
        password=unquote(password) if has_password else None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


def _hosts(text: str, kind: str) -> tuple[tuple[str, int], ...]:
    found = tuple(_host(one, kind) for one in text.split(",") if one.strip()) or (("localhost", _PORTS[kind]),)
    if kind == "single" and len(found) > 1:
        raise ConfigError(
            f"the store names {len(found)} hosts: one for redis://, several only for {_EXAMPLES['sentinel']} or "
            f"{_EXAMPLES['cluster']}"
        )
    return found


def _host(text: str, kind: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?", text.strip())
    if match is None or not 0 < int(match[2] or _PORTS[kind]) < 65536:
        # Not shown: where somebody forgot to quote an @ or a /, this is half a password.
        raise ConfigError(
            f"the store's host and port cannot be read: write {_EXAMPLES[kind]}, and quote special characters in a "
            "password (@ as %40, / as %2F, # as %23)"
        )
    return match[1].strip("[]"), int(match[2] or _PORTS[kind])


def _path(path: str, kind: str) -> tuple[str, int]:
    """The master's name and the database's number."""
    steps = [unquote(step) for step in path.split("/") if step]
    master = ""
    if kind == "sentinel":
        if not steps:
            raise ConfigError(f"the store names no master: write {_EXAMPLES[kind]}, with the name the sentinels use")
        master = steps.pop(0)
    if kind == "cluster" and steps not in ([], ["0"]):
        raise ConfigError(f"the store names a database, a cluster has only one: write {_EXAMPLES[kind]}")
    if len(steps) > 1 or not all(step.isascii() and step.isdecimal() for step in steps):
        raise ConfigError(f"the store's database is not a number: write {_EXAMPLES[kind]}")
    return master, int(steps[0]) if steps else 0


def _options(query: str, *, is_tls: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key in options:
        if key not in _OPTIONS:
            meant = hint(key, _OPTIONS, f"known are {', '.join(_OPTIONS)}")
            raise ConfigError(f"the store's option {key!r} is not known: {meant}")
        if key in _TLS_OPTIONS and not is_tls:
            raise ConfigError(f"the store's option {key!r} is for TLS: write rediss:// (or rediss+…://)")
    return options


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:/-]{1,100}", text):
        raise ConfigError(f"the store's prefix = {text!r}: 1 to 100 of A–Z a–z 0–9 _ . : / -")
    return text
