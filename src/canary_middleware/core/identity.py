"""
Identity sources: where in a request the text stands that must not flip between versions.

Every source is a small value that reads a RequestHead; this file knows no server and no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .ports import RequestHead


class Source(Protocol):
    """One place to look for an identity. ``spec`` is its text in a plan file, for example ``header:x-user-id``."""

    @property
    def spec(self) -> str: ...

    def read(self, head: RequestHead) -> str | None:
        """The identity, or None where this request has none here."""
        ...


def parse_source(spec: str) -> Source:
    """The source that *spec* names in a plan file. Raises ConfigError that lists the known kinds."""
    raise ConfigError(spec)
