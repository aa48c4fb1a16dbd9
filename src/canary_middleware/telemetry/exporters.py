"""
The SDK's OTLP exporters, over HTTP or gRPC. Made in the process that exports: connections do not survive a fork.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from .settings import Protocol as Wire
    from .settings import Signal


class Exporter(Protocol):
    """What the SDK's three exporters have in common. Any: spans, log records or metrics, and their own results."""

    def export(self, items: Any, /) -> Any: ...

    def shutdown(self) -> None: ...


def exporter_type(signal: Signal, protocol: Wire, *, uncompressed: bool = False) -> Callable[[], Exporter]:
    """
    What makes the exporter for *signal*.

    It reads endpoint, headers, timeout and certificates from the standard variables.
    """
    found: Callable[[], Exporter] = _grpc(signal) if protocol == "grpc" else _http(signal)
    if protocol == "grpc" and uncompressed:
        from grpc import Compression

        # "none" is a value of the standard variable that these exporters refuse.
        return partial(cast("Callable[..., Exporter]", found), compression=Compression.NoCompression)
    return found


def _http(signal: Signal) -> Any:
    if signal == "traces":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter
    if signal == "metrics":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter


def _grpc(signal: Signal) -> Any:
    if signal == "traces":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter
    if signal == "metrics":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

    return OTLPLogExporter


def preload(make: Callable[[], Exporter], protocol: Wire) -> None:
    """
    Import all that an exporter needs, here and now.

    A fork in the middle of an import leaves half a module in the child, for good: the exporters over HTTP import their
    transport when they are made. Those over gRPC import everything at once, and must not be made before a fork.
    """
    if protocol != "grpc":
        make().shutdown()


class Lazy:
    """
    An exporter that is made when its thread begins, in the process that exports.

    Args:
        convert: makes of what was queued what the exporter takes; in that thread, too.
    Attributes:
        busy: held while it is made and during its first export, when transports import and start what they need: no
            fork should happen then.
    """

    def __init__(self, make: Callable[[], Exporter], convert: Callable[[Any], Any] | None = None) -> None:
        self._convert = convert
        self._make = make
        self._exporter: Exporter | None = None
        self._is_warm = False
        self.busy: Final = threading.Lock()

    def open(self) -> None:
        """Make the exporter."""
        with self.busy:
            self._exporter = self._make()

    def __call__(self, items: Any, /) -> bool:
        """Export *items*; whether the collector took them. Any: spans, log records or metrics of whichever SDK."""
        if self._exporter is None:
            self.open()
        assert self._exporter is not None
        if self._convert is not None:
            items = self._convert(items)
        if self._is_warm:
            result = self._exporter.export(items)
        else:
            with self.busy:
                self._is_warm = True
                result = self._exporter.export(items)
        # The three result enums have nothing in common but the member's name.
        return getattr(result, "name", "") == "SUCCESS"

    def close(self) -> None:
        """Close the connection."""
        if self._exporter is not None:
            self._exporter.shutdown()
