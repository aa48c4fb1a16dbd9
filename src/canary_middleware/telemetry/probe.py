"""
One real export to wherever the environment points, to see whether anybody answers.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from .exporters import exporter_type
from .settings import SIGNALS, read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import Signal

NAME: Final = "canary.test"
"""Name of the span that is sent, so that it can be found and left out at the other end."""


# Long enough for a collector across the world; the exporter would go on trying for ten.
_TIMEOUT_S: Final = 3.0


class Delivery(NamedTuple):
    """How one signal's export went; *problem* is empty where the collector took it."""

    signal: Signal
    endpoint: str
    took_s: float
    problem: str = ""


def deliver(environ: Mapping[str, str]) -> list[Delivery]:
    """
    Send one span, and say which signals the environment asks for at all.

    Args:
        environ: the standard OTEL_* variables.
    Returns:
        the traces' delivery; empty where no telemetry is asked for.
    Raises:
        ConfigError: a variable has a value that cannot be.
    """
    settings = read_settings(environ)
    if "traces" not in settings.protocols:
        return []
    make = exporter_type("traces", settings.protocols["traces"], uncompressed="traces" in settings.uncompressed)
    # Any: every exporter of the SDK's takes a timeout, and none says so in a common type.
    exporter = cast("Any", make)(timeout=_TIMEOUT_S)
    return [Delivery("traces", _endpoint(environ), *_send(exporter))]


def wanted(environ: Mapping[str, str]) -> list[Signal]:
    """The signals that the environment asks for."""
    return [signal for signal in SIGNALS if signal in read_settings(environ).protocols]


def _endpoint(environ: Mapping[str, str]) -> str:
    specific = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return specific or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "the default endpoint on this host"


class _Heard(logging.Handler):
    """What an exporter says of its troubles, instead of on the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _send(exporter: Any) -> tuple[float, str]:  # Any: the SDK's span exporter, which one the protocol says
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    results: list[SpanExportResult] = []

    class Told(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            results.append(exporter.export(spans))
            return results[-1]

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Told()))
    heard, log = _Heard(), logging.getLogger("opentelemetry")
    log.addHandler(heard)
    before, log.propagate = log.propagate, False
    began = time.perf_counter()
    try:
        provider.get_tracer("canary_middleware").start_span(NAME).end()
        took_s = time.perf_counter() - began
        provider.shutdown()
        exporter.shutdown()
    finally:
        log.propagate = before
        log.removeHandler(heard)
    if results == [SpanExportResult.SUCCESS]:
        return took_s, ""
    return took_s, next(iter(heard.lines), "it said nothing of why")
