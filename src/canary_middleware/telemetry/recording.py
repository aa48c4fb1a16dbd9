"""
The Recorder that a Canary calls on its requests: at most one span of ours per request, and nothing that waits.

Metrics cost nothing here: what ``Counts`` holds anyway is read when it is collected.
"""

from __future__ import annotations

from functools import lru_cache
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from opentelemetry import _logs, metrics, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage import set_baggage
from opentelemetry.context import Context
from opentelemetry.trace import StatusCode

from . import foreign, names, pipeline
from .ledger import ledger
from .logs import emit_event
from .native import Natives
from .providers import configured, package_version
from .request import Track, assigned, stamp

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span

    from .._core.exchange import Exchange
    from .._core.ports import Recorder, RequestHead
    from .pipeline import OpenSpan
    from .series import Subject

When = Literal["never", "auto", "always"]


def recorder(
    subject: Subject,
    *,
    server_span: When = "auto",
    http_metrics: When = "never",
    context_id: bool = False,
    flag_events: bool = False,
    baggage: bool = False,
) -> Recorder | None:
    """
    The telemetry of *subject* in this process; ask again after a fork.

    Args:
        server_span: ``auto`` opens a server span where neither the server nor the app does, ``always`` in any case.
        http_metrics: also record ``http.server.request.duration``: ``auto`` where the app below does not itself.
        context_id: put ``feature_flag.context.id``, a keyed hash of the identity, on the server span.
        flag_events: one ``feature_flag.evaluation`` log event per request.
        baggage: send ``canary.version`` and ``canary.rollout`` downstream as baggage.
    Returns:
        None where no OpenTelemetry provider is set up: there is nothing to record for.
    """
    tracers = configured(trace.get_tracer_provider())
    meters = configured(metrics.get_meter_provider())
    loggers = configured(_logs.get_logger_provider())
    if tracers is None and meters is None and loggers is None:
        return None
    pipeline.stamp_providers(tracers, loggers)
    version = package_version()
    instruments = foreign.on(None if meters is None or pipeline.owns(meters) else meters, version)
    ledger().add(subject)
    pipeline.start()
    events = _logs.get_logger(names.SCOPE, version) if flag_events and loggers is not None else None
    http = foreign.http_histogram(meters, version) if http_metrics != "never" and meters is not None else None
    if tracers is None and http is None and events is None and not baggage:
        return MetricsRecorder(instruments)
    return RequestRecorder(
        instruments,
        open_span=None if tracers is None else pipeline.span_opener(tracers, trace.get_tracer(names.SCOPE, version)),
        server_span=server_span,
        http=http,
        http_always=http_metrics == "always",
        with_id=context_id,
        events=events,
        with_baggage=baggage,
    )


class MetricsRecorder:
    """Where there are no spans: only a foreign MeterProvider wants to hear of each request."""

    def __init__(self, instruments: foreign.Instruments | None) -> None:
        self._instruments = instruments

    def begin(self, exchange: Exchange, head: RequestHead) -> None:
        """Nothing: ``Counts`` has it."""

    def attach(self, exchange: Exchange) -> object:
        return None

    def detach(self, exchange: Exchange, token: object) -> None: ...

    def fallback(self, exchange: Exchange) -> None: ...

    def end(self, exchange: Exchange) -> None:
        if self._instruments is not None and not exchange.is_aborted:
            self._instruments.record_request(exchange, _counted(exchange.method), None)

    def trace_id(self, exchange: Exchange) -> str | None:
        track = exchange.span
        span = track.span if isinstance(track, Track) else None
        context = None if span is None else span.get_span_context()
        return None if context is None or not context.is_valid else f"{context.trace_id:032x}"


class RequestRecorder(MetricsRecorder):
    """Finds or opens the request's server span, and ends what it opened exactly once."""

    def __init__(
        self,
        instruments: foreign.Instruments | None,
        *,
        open_span: OpenSpan | None,
        server_span: When,
        http: Histogram | None,
        http_always: bool,
        with_id: bool,
        events: Any,  # the API's Logger, whose emit() differs between versions
        with_baggage: bool,
    ) -> None:
        super().__init__(instruments)
        self._open_span = open_span
        self._server_span = server_span
        self._http = http
        self._http_always = http_always
        self._with_id = with_id
        self._events = events
        self._with_baggage = with_baggage
        self._natives = Natives()
        # traceparent and tracestate go together; whichever else the app's propagator reads is asked for too.
        self._fields = tuple(sorted(propagate.get_global_textmap().fields - {"tracestate"}, reverse=True))

    def begin(self, exchange: Exchange, head: RequestHead) -> None:
        track = Track(with_id=self._with_id, scheme=self._scheme(head))
        exchange.span = track
        if self._open_span is not None:
            self._find_span(self._open_span, track, exchange, head)
        if self._with_baggage:
            context = otel_context.get_current() if track.context is None else track.context
            for name, value in stamp(exchange.assignment[0]).items():
                context = set_baggage(name, value, context)
            track.context = context
        if self._events is not None:
            attributes = dict(assigned(exchange.assignment, with_id=self._with_id))
            emit_event(self._events, names.FLAG_EVENT, attributes, track.context)

    def _scheme(self, head: RequestHead) -> str | None:
        if self._http is None:
            return None
        if not self._http_always and self._natives.opens_spans(head.app, head.native):
            return None
        return head.scheme

    def _find_span(self, open_span: OpenSpan, track: Track, exchange: Exchange, head: RequestHead) -> None:
        current = trace.get_current_span()
        if self._server_span != "always" and _is_running(current):
            track.span = current
            if current.is_recording():
                current.set_attributes(assigned(exchange.assignment, with_id=self._with_id))
            return
        if self._server_span == "never" or (
            self._server_span == "auto" and self._natives.opens_spans(head.app, head.native)
        ):
            track.awaits = True
            return
        parent = self._parent(current, head)
        track.route = exchange.route
        span = open_span(
            _span_name(exchange.method, track.route),
            parent,
            _attributes(exchange, head, assigned(exchange.assignment, with_id=self._with_id)),
        )
        track.is_ours = True
        track.span = span
        track.context = trace.set_span_in_context(span, parent)

    def _parent(self, current: Span, head: RequestHead) -> Context:
        """Where the request comes from: whoever is current here, else its headers, else nowhere."""
        found = current.get_span_context()
        if found.is_valid and (found.is_remote or _is_running(current)):
            return otel_context.get_current()
        carrier: dict[str, str] = {}
        for field in self._fields:
            value = head.header(field)
            if value is not None:
                carrier[field] = value
        if not carrier:
            return _NOWHERE
        if "traceparent" in carrier:
            state = head.header("tracestate")
            if state is not None:
                carrier["tracestate"] = state
        return propagate.extract(carrier, _NOWHERE)

    def attach(self, exchange: Exchange) -> object:
        track = exchange.span
        if isinstance(track, Track) and track.context is not None:
            return otel_context.attach(track.context)
        return None

    def detach(self, exchange: Exchange, token: object) -> None:
        if token is not None:
            otel_context.detach(cast("Token[Context]", token))

    def fallback(self, exchange: Exchange) -> None:
        track, failure = exchange.span, exchange.failure
        if not isinstance(track, Track) or failure is None:
            return
        span = track.span
        if span is None or not span.is_recording():
            return
        attributes = {**stamp(exchange.variant), names.ERROR_TYPE: failure.error_type}
        error = failure.exception
        if error is not None:
            attributes[names.EXCEPTION_TYPE] = type(error).__qualname__
            attributes[names.EXCEPTION_MESSAGE] = str(error)
            attributes[names.EXCEPTION_STACKTRACE] = "".join(format_exception(error))
        span.add_event(names.FALLBACK_EVENT, attributes)

    def end(self, exchange: Exchange) -> None:
        track = exchange.span
        if not isinstance(track, Track):
            super().end(exchange)
            return
        if self._instruments is not None or self._http is not None:
            self._record(exchange, track)
        if track.is_ours and track.span is not None:
            _end_span(track.span, exchange, track)

    def _record(self, exchange: Exchange, track: Track) -> None:
        if exchange.is_aborted:
            return
        if self._instruments is not None:
            self._instruments.record_request(exchange, _counted(exchange.method), track.context)
        if track.scheme is not None and self._http is not None:
            self._http.record(exchange.duration, _http_attributes(exchange, track.scheme), track.context)


_NOWHERE: Final = Context()
_SPAN_METHODS: Final = names.KNOWN_METHODS | {"WEBSOCKET"}


def _is_running(span: Span) -> bool:
    """
    Whether *span* is one of this process that has not ended.

    One that is not recording was not sampled, which also is a decision to follow; but one that ended may still be
    current: contrib's WSGI middleware leaves it behind when a response is closed before its first chunk.
    """
    context = span.get_span_context()
    if not context.is_valid or context.is_remote:
        return False
    return span.is_recording() or type(span) is trace.NonRecordingSpan


def _attributes(exchange: Exchange, head: RequestHead, base: Any) -> dict[str, Any]:
    """All that is known at the beginning, in one mapping: the sampler sees it, and one call costs less than ten."""
    method = exchange.method
    found = {**base, names.URL_PATH: head.path, names.URL_SCHEME: head.scheme}
    if method in names.KNOWN_METHODS:
        found[names.HTTP_METHOD] = method
    elif method == "WEBSOCKET":
        found[names.HTTP_METHOD] = "GET"
        found[names.PROTOCOL_NAME] = "websocket"
    else:
        found[names.HTTP_METHOD] = names.OTHER_METHOD
        found[names.HTTP_METHOD_ORIGINAL] = method
    if exchange.route is not None:
        found[names.HTTP_ROUTE] = exchange.route
    host = head.header("host")
    if host:
        address, port = _server(host)
        if address:
            found[names.SERVER_ADDRESS] = address
        if port:
            found[names.SERVER_PORT] = port
    peer = head.peer
    if peer:
        found[names.CLIENT_ADDRESS] = peer
    agent = head.header("user-agent")
    if agent:
        found[names.USER_AGENT] = agent
    version = _protocol(head.native)
    if version:
        found[names.PROTOCOL_VERSION] = version
    return found


@lru_cache(maxsize=256)
def _server(host: str) -> tuple[str, int]:
    """(address, port or 0) of a Host header; IPv6 addresses without their brackets."""
    address, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal() or host.endswith("]"):
        return host.strip("[]"), 0
    return address.strip("[]"), int(port) if len(port) < 6 else 0


def _protocol(native: object) -> str | None:
    """``1.1`` or ``2``, where the front door's request is a mapping that tells it (ASGI scope, WSGI environ)."""
    if not isinstance(native, dict):
        return None
    version = native.get("http_version")
    if version is None:
        version = str(native.get("SERVER_PROTOCOL", "")).removeprefix("HTTP/")
    return version or None


def _end_span(span: Span, exchange: Exchange, track: Track) -> None:
    if span.is_recording():
        found: dict[str, Any] = track.totals() if track.db_count or track.hits or track.misses else {}
        status = exchange.status
        if status:
            found[names.HTTP_STATUS] = status
        route = exchange.route
        if route is not None and route != track.route:
            found[names.HTTP_ROUTE] = route
            span.update_name(_span_name(exchange.method, route))
        if exchange.odd is not None or status >= 500:
            error = _client_error(exchange)
            if error is not None and not exchange.is_aborted:
                found[names.ERROR_TYPE] = error
                span.set_status(StatusCode.ERROR)
        span.set_attributes(found)
    span.end()


def _span_name(method: str, route: str | None) -> str:
    shown = method if method in _SPAN_METHODS else "HTTP"
    return shown if route is None else f"{shown} {route}"


def _client_error(exchange: Exchange) -> str | None:
    """What went wrong for the client, not for the canary: where stable answered instead of it, nothing has."""
    return exchange.error_type or (str(exchange.status) if exchange.status >= 500 else None)


def _http_attributes(exchange: Exchange, scheme: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        names.HTTP_METHOD: exchange.method if exchange.method in names.KNOWN_METHODS else names.OTHER_METHOD,
        names.URL_SCHEME: scheme,
    }
    if exchange.status:
        found[names.HTTP_STATUS] = exchange.status
    if exchange.route is not None:
        found[names.HTTP_ROUTE] = exchange.route
    error = _client_error(exchange)
    if error is not None:
        found[names.ERROR_TYPE] = error
    return found


def _counted(method: str) -> str:
    return method if method in _SPAN_METHODS else names.OTHER_METHOD
