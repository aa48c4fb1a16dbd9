"""
Telemetry: every span, metric and log record of a request carries the version that served it.

The only part of this package that imports OpenTelemetry: its API here, its SDK and exporters where they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import names
from .logs import LogFilter
from .pipeline import configure_telemetry, farewell, flush, shutdown
from .recording import recorder
from .series import Subject
from .usage import record_cache, record_db

if TYPE_CHECKING:
    from .processors import LogStamp, SpanStamp

__all__ = [
    "LogFilter",
    "LogStamp",
    "SpanStamp",
    "Subject",
    "configure_telemetry",
    "farewell",
    "flush",
    "names",
    "record_cache",
    "record_db",
    "recorder",
    "shutdown",
]


def __getattr__(name: str) -> Any:  # Any: two classes that need the SDK, for providers that an app sets up itself
    if name in ("LogStamp", "SpanStamp"):
        from . import processors

        return getattr(processors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
