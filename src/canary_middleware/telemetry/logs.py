"""
Log records of a request, with its version: for plain formatters, for OTLP, and the optional event of each decision.
"""

from __future__ import annotations

import logging
import time
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, trace
from opentelemetry._logs import SeverityNumber

from .._core.exchange import Exchange, active
from . import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL, "FATAL"),
    (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
    (logging.WARNING, SeverityNumber.WARN, "WARN"),
    (logging.INFO, SeverityNumber.INFO, "INFO"),
    (logging.DEBUG, SeverityNumber.DEBUG, "DEBUG"),
)
# What every LogRecord has; anything else came in by ``extra=``.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PLAIN = (str, bool, int, float)
_TAKES_CONTEXT = "context" in _logs.LogRecord.__init__.__code__.co_varnames  # since 1.35


class LogFilter(logging.Filter):
    """
    Gives every record ``canary_version`` and ``canary_rollout``, empty outside a request, for a plain formatter.

    Put it on a handler: ``handler.addFilter(LogFilter())``, then ``%(canary_version)s`` in its format.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        exchange = active.get()
        if isinstance(exchange, Exchange):
            variant = exchange.assignment[0]
            record.canary_version, record.canary_rollout = variant.version, variant.rollout
        else:
            record.canary_version = record.canary_rollout = ""
        return True


class OtlpHandler(logging.Handler):
    """
    Sends records of ``logging`` to the LoggerProvider. Its own exporters' complaints stay out: they would never end.

    Ours and not the SDK's, which is deprecated since 1.42 and has no successor without another dependency.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loggers: dict[str, _logs.Logger] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises, never waits."""
        if record.name.startswith("opentelemetry."):
            return
        try:
            logger = self._loggers.get(record.name)
            if logger is None:
                logger = self._loggers[record.name] = _logs.get_logger(record.name)
            _emit(
                logger,
                timestamp=int(record.created * 1e9),
                severity=_severity(record.levelno),
                body=record.getMessage(),
                attributes=_attributes(record),
            )
        except Exception:  # noqa: BLE001 - logging's own convention
            self.handleError(record)
        last = logging.lastResort
        # An app without any handler sees its warnings on stderr; having us must not take them away.
        if last is not None and record.levelno >= last.level and _is_only_handler(self, record.name):
            last.handle(record)


def _is_only_handler(ours: logging.Handler, name: str) -> bool:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(handler is not ours for handler in logger.handlers):
            return False
        if not logger.propagate:
            break
        logger = logger.parent
    return True


def _severity(level: int) -> tuple[SeverityNumber, str]:
    for least, number, name in _SEVERITIES:
        if level >= least:
            return number, name
    return SeverityNumber.TRACE, "TRACE"


def _attributes(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: value if isinstance(value, _PLAIN) else str(value)
        for name, value in record.__dict__.items()
        if name not in _STANDARD
    }
    found["code.file.path"] = record.pathname
    found["code.function.name"] = record.funcName
    found["code.line.number"] = record.lineno
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        found[names.EXCEPTION_TYPE] = type(error).__qualname__
        found[names.EXCEPTION_MESSAGE] = str(error)
        found[names.EXCEPTION_STACKTRACE] = "".join(format_exception(error))
    return found


def emit_event(logger: Any, name: str, attributes: Mapping[str, Any], context: Context | None) -> None:
    """One event on *logger* (the API's; Any: its ``emit`` differs between versions)."""
    _emit(
        logger,
        timestamp=time.time_ns(),
        severity=(SeverityNumber.INFO, "INFO"),
        body=None,
        attributes=dict(attributes),
        event=name,
        context=context,
    )


def _emit(
    logger: Any,
    *,
    timestamp: int,
    severity: tuple[SeverityNumber, str],
    body: str | None,
    attributes: dict[str, Any],
    event: str | None = None,
    context: Context | None = None,
) -> None:
    fields: dict[str, Any] = {
        "timestamp": timestamp,
        "observed_timestamp": time.time_ns(),
        "severity_number": severity[0],
        "severity_text": severity[1],
        "body": body,
        "attributes": attributes,
    }
    if _TAKES_CONTEXT:
        record: Any = _logs.LogRecord(**fields, context=context, event_name=event)
    else:
        record = _old_record(logger, fields, event, context)
    logger.emit(record)


def _old_record(logger: Any, fields: dict[str, Any], event: str | None, context: Context | None) -> Any:
    """Up to SDK 1.34: a class of the SDK, with the ids spelt out and the resource inside."""
    from opentelemetry.sdk import _logs as sdk_logs

    if event is not None:
        fields["attributes"]["event.name"] = event
    span = trace.get_current_span(context).get_span_context()
    # Zero where there is no span: the exporters of then cannot encode None.
    fields.update(trace_id=span.trace_id, span_id=span.span_id, trace_flags=span.trace_flags)
    made: Any = sdk_logs
    return made.LogRecord(**fields, resource=getattr(logger, "resource", None))
