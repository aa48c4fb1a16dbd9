"""
The SDK's hooks: what stamps the version on every span and log record, and what queues them for export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from .._core.exchange import Exchange, active
from . import names
from .request import adopt, server_attributes, stamp
from .usage import count_db

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span


class SpanStamp(SpanProcessor):
    """
    Puts ``canary.version`` and ``canary.rollout`` on every span of a request; counts its database spans.

    A server span that somebody else opens below us gets what ours would have. Spans of a bare ``Thread`` are not
    stamped: start it with ``contextvars.copy_context().run``.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        exchange = active.get()
        if not isinstance(exchange, Exchange):
            return
        scope = span.instrumentation_scope
        if scope is not None and scope.name == names.SCOPE:
            return  # ours: made with all its attributes, so that the sampler saw them
        if span.kind is SpanKind.SERVER and adopt(exchange, span):
            span.set_attributes(server_attributes(exchange))
        else:
            span.set_attributes(stamp(exchange.assignment[0]))

    def on_end(self, span: ReadableSpan) -> None:
        if span.kind is SpanKind.CLIENT and isinstance(exchange := active.get(), Exchange):
            _database(exchange, span)

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _database(exchange: Exchange, span: ReadableSpan) -> None:
    attributes = span.attributes or {}
    system = attributes.get(names.DB_SYSTEM) or attributes.get(names.DB_SYSTEM_OLD)
    if not system or span.start_time is None or span.end_time is None:
        return
    operation = attributes.get(names.DB_OPERATION) or attributes.get(names.DB_OPERATION_OLD)
    error = attributes.get(names.ERROR_TYPE)
    if error is None and span.status.status_code is StatusCode.ERROR:
        error = _OTHER_ERROR
    seconds = (span.end_time - span.start_time) / 1e9
    # Span names of database clients begin with the operation: "SELECT shop".
    count_db(
        exchange, seconds, str(system), str(operation or span.name.partition(" ")[0]), _text(error), from_span=True
    )


_OTHER_ERROR = "_OTHER"


def _text(value: object) -> str | None:
    return None if value is None else str(value)


class LogStamp(LogRecordProcessor):
    """Puts ``canary.version`` and ``canary.rollout`` on every log record of a request."""

    def on_emit(self, log_record: Any) -> None:  # Any: the SDK renamed this class twice since 1.30
        exchange = active.get()
        if isinstance(exchange, Exchange):
            record = log_record.log_record
            if record.attributes is None:
                record.attributes = {}
            record.attributes.update(stamp(exchange.assignment[0]))

    emit = on_emit  # its name in the SDK up to 1.34

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class SpanQueue(SpanProcessor):
    """Hands finished spans to *put*, which never waits."""

    def __init__(self, put: Callable[[object], None], flush: Callable[[float], bool]) -> None:
        self._put = put
        self._flush = flush

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self._put(span)

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._flush(timeout_millis / 1000)


class LogQueue(LogRecordProcessor):
    """Hands log records to *put*, which never waits."""

    def __init__(self, put: Callable[[object], None], flush: Callable[[float], bool]) -> None:
        self._put = put
        self._flush = flush

    def on_emit(self, log_record: Any) -> None:  # Any: the SDK renamed this class twice since 1.30
        self._put(_readable(log_record))

    emit = on_emit  # its name in the SDK up to 1.34

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._flush(timeout_millis / 1000)


def _readable(record: Any) -> Any:
    """What the exporter takes: since 1.39 another class than what processors get."""
    readable = getattr(sdk_logs, "ReadableLogRecord", None)
    if readable is None or not isinstance(record, sdk_logs.ReadWriteLogRecord):
        return record
    return readable(
        log_record=record.log_record,
        resource=record.resource,
        instrumentation_scope=record.instrumentation_scope,
        limits=record.limits,
    )
