"""Exactly one server span per request, whoever opens it, and the version on every span and log record."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from flask import Flask
from opentelemetry import _logs, baggage, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as ContribAsgi
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as ContribWsgi
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import export as log_export
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from canary_middleware import current, telemetry
from canary_middleware._core.exchange import Exchange
from canary_middleware.asgi import CanaryMiddleware
from canary_middleware.telemetry import names
from canary_middleware.telemetry.logs import OtlpHandler
from canary_middleware.telemetry.recording import MetricsRecorder
from canary_middleware.wsgi import CanaryMiddleware as WsgiCanary
from tests.telemetry.drive import call, canary, http_scope, middleware, plain, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.sdk.trace import ReadableSpan

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Spans:
    """What a TracerProvider of the app's own has finished."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        trace.set_tracer_provider(self.provider)

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def servers(self) -> list[ReadableSpan]:
        return [span for span in self.all() if span.kind is SpanKind.SERVER]

    def one(self) -> ReadableSpan:
        (span,) = self.servers()
        return span


@pytest.fixture
def spans() -> Spans:
    return Spans()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


ASSIGNED = {
    names.VERSION: "v2",
    names.ROLLOUT: "checkout",
    names.ASSIGNMENT_REASON: "weight",
    names.FLAG_KEY: "checkout",
    names.FLAG_VARIANT: "v2",
    names.FLAG_REASON: "split",
    names.FLAG_PROVIDER: "canary_middleware",
    names.FLAG_VERSION: "0",
}


def test_a_span_of_ours_has_what_the_conventions_ask_for(spans: Spans) -> None:
    app = middleware(weight=100, endpoints=["GET /cart/{item}"])

    request(app, "/cart/7")

    span = spans.one()
    assert span.name == "GET /cart/{item}"
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span) == {
        **ASSIGNED,
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/cart/{item}",
        "url.path": "/cart/7",
        "url.scheme": "https",
        "server.address": "shop.example",
        "server.port": 8443,
        "client.address": "192.0.2.7",
        "user_agent.original": "test",
        "network.protocol.version": "1.1",
    }
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "canary_middleware"


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [("/404", StatusCode.UNSET, None), ("/500", StatusCode.ERROR, "500"), ("/boom", StatusCode.ERROR, "ValueError")],
)
def test_only_failures_of_the_server_are_errors(spans: Spans, path: str, status: StatusCode, error: str | None) -> None:
    request(middleware(weight=0), path)

    span = spans.one()
    assert span.status.status_code is status
    assert attributes(span).get(names.ERROR_TYPE) == error


@pytest.mark.parametrize(("server_span", "known"), [("auto", True), ("never", False)])
def test_the_trace_of_a_request_that_has_ended_is_known(spans: Spans, server_span: Any, known: bool) -> None:
    app = middleware(weight=0, telemetry={"server_span": server_span})
    ended: list[Exchange] = []
    app.canary.observe(ended.append)
    request(app, traceparent=PARENT)

    recorder = app.canary.recorder
    assert recorder is not None
    assert recorder.trace_id(ended[0]) == (TRACE if known else None)


def test_without_spans_no_trace_is_known() -> None:
    assert MetricsRecorder(None).trace_id(Exchange("GET")) is None


def test_an_unknown_method_is_no_label(spans: Spans) -> None:
    request(middleware(), method="PURGE")

    span = spans.one()
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "PURGE"


def test_the_path_is_never_in_a_name(spans: Spans) -> None:
    request(middleware(), "/users/4711")

    assert spans.one().name == "GET"
    assert "http.route" not in attributes(spans.one())


def test_the_caller_s_trace_goes_on(spans: Spans) -> None:
    request(middleware(), traceparent=PARENT, tracestate="a=b")

    span = spans.one()
    assert span.context is not None
    assert format(span.context.trace_id, "032x") == TRACE
    assert span.context.trace_state.get("a") == "b"
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == "b7ad6b7169203331"


@pytest.mark.parametrize("header", ["", "00-zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\xff" * 100])
def test_a_malformed_traceparent_begins_a_new_trace(spans: Spans, header: str) -> None:
    request(middleware(), traceparent=header)

    assert spans.one().parent is None


def test_the_sampler_sees_the_version() -> None:
    seen: list[dict[str, Any]] = []

    class Looking(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            seen.append(dict(kwargs.get("attributes") or args[4]))
            return ALWAYS_ON.should_sample(*args, **kwargs)

        def get_description(self) -> str:
            return "looking"

    Spans(Looking())
    request(middleware(weight=100))

    assert seen[0].items() >= ASSIGNED.items()


def test_an_unsampled_request_has_no_span_and_passes_its_decision_on() -> None:
    spans = Spans(ParentBased(ALWAYS_OFF))
    inner: list[trace.SpanContext] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        inner.append(trace.get_current_span().get_span_context())
        with trace.get_tracer("shop").start_as_current_span("work"):
            await plain(scope, receive, send)

    request(middleware(app), traceparent=PARENT[:-1] + "0")

    assert spans.all() == []
    assert format(inner[0].trace_id, "032x") == TRACE
    assert not inner[0].trace_flags.sampled


def test_inner_spans_and_logs_are_children_and_carry_the_version(spans: Spans) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        with trace.get_tracer("shop").start_as_current_span("work"):
            await plain(scope, receive, send)

    request(middleware(app, weight=100))

    server = spans.one()
    inner = next(span for span in spans.all() if span.name == "work")
    assert attributes(inner) == {names.VERSION: "v2", names.ROLLOUT: "checkout"}
    assert inner.parent is not None
    assert server.context is not None
    assert inner.parent.span_id == server.context.span_id
    with trace.get_tracer("shop").start_as_current_span("outside"):
        pass
    assert attributes(spans.all()[-1]) == {}


def test_threads_that_copy_the_context_are_stamped_and_bare_ones_are_not(spans: Spans) -> None:
    def work(name: str) -> None:
        with trace.get_tracer("shop").start_as_current_span(name):
            pass

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.to_thread(work, "pool")
        copied = threading.Thread(target=contextvars.copy_context().run, args=(work, "copied"))
        bare = threading.Thread(target=work, args=("bare",))
        for thread in (copied, bare):
            thread.start()
            thread.join()
        await plain(scope, receive, send)

    request(middleware(app, weight=100))

    versions = {span.name: attributes(span).get(names.VERSION) for span in spans.all() if span.name != "GET"}
    assert versions == {"pool": "v2", "copied": "v2", "bare": None}


# -- somebody else's server span


def fastapi(**settings: Any) -> FastAPI:
    app = FastAPI(**settings)

    @app.get("/cart")
    def cart() -> str:
        return "ok"

    return app


def test_the_span_that_fastapi_opens_is_enriched_from_inside(spans: Spans) -> None:
    app = fastapi()
    app.add_middleware(CanaryMiddleware, canary=canary(weight=100))

    request(app, traceparent=PARENT)

    assert attributes(spans.one()).items() >= ASSIGNED.items()


def test_the_span_that_fastapi_opens_is_stamped_from_outside(spans: Spans) -> None:
    app = CanaryMiddleware(fastapi(), canary=canary(weight=100))

    request(app, traceparent=PARENT)
    request(app, traceparent=PARENT)

    assert len(spans.servers()) == 2
    for span in spans.servers():
        assert attributes(span).items() >= ASSIGNED.items()
        assert span.parent is not None
        assert format(span.parent.span_id, "016x") == "b7ad6b7169203331"


def test_ours_is_opened_where_fastapi_opens_none(spans: Spans) -> None:
    native = "telemetry" in FastAPI.__init__.__annotations__
    app = fastapi(**({"telemetry": {"tracing": False}} if native else {}))
    app.add_middleware(CanaryMiddleware, canary=canary(weight=100))

    request(app)

    assert spans.one().instrumentation_scope.name == "canary_middleware"  # type: ignore[union-attr]
    assert spans.one().name == "GET /cart"


def test_an_instrumented_fastapi_keeps_its_span(spans: Spans) -> None:
    app = fastapi()
    FastAPIInstrumentor.instrument_app(app)
    outside = CanaryMiddleware(app, canary=canary(weight=100))

    request(outside)

    assert attributes(spans.one()).items() >= ASSIGNED.items()


@pytest.mark.parametrize("ours_outside", [True, False])
def test_contrib_s_asgi_middleware_keeps_its_span(spans: Spans, ours_outside: bool) -> None:
    if ours_outside:
        app: Any = CanaryMiddleware(ContribAsgi(plain), canary=canary(weight=100))
    else:
        app = ContribAsgi(CanaryMiddleware(plain, canary=canary(weight=100)))

    request(app)

    assert attributes(spans.one()).items() >= ASSIGNED.items()


def test_starlette_s_own_middleware_keeps_its_span(spans: Spans) -> None:
    tracing = _starlette_middleware()
    app = Starlette(routes=[Route("/cart", _cart)])
    if tracing is not None:  # Starlette before 1.7 traces nothing: the span is ours
        app.add_middleware(tracing)

    request(CanaryMiddleware(app, canary=canary(weight=100)))

    assert attributes(spans.one()).items() >= ASSIGNED.items()


def _starlette_middleware() -> Any:
    try:
        from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
    except ImportError:
        return None
    return OpenTelemetryMiddleware


async def _cart(_: Any) -> PlainTextResponse:
    return PlainTextResponse("ok")


def flask_app() -> Flask:
    app = Flask("shop")
    app.add_url_rule("/cart", view_func=lambda: "ok", endpoint="cart")
    return app


def wsgi_request(app: Any, path: str = "/cart", *, close_early: bool = False) -> bytes:
    from werkzeug.test import EnvironBuilder

    body: Iterable[bytes] = app(EnvironBuilder(path).get_environ(), lambda *_: None)
    found = b"" if close_early else b"".join(body)
    close: Callable[[], None] | None = getattr(body, "close", None)
    if close is not None:
        close()
    return found


def test_an_instrumented_flask_keeps_its_span(spans: Spans) -> None:
    app = flask_app()
    FlaskInstrumentor().instrument_app(app)
    outside = WsgiCanary(app, canary=canary(weight=100))

    wsgi_request(outside)

    assert attributes(spans.one())[names.ROLLOUT] == "checkout"
    assert names.FLAG_KEY in attributes(spans.one())


def test_a_response_closed_before_its_first_chunk_ends_its_span_once(spans: Spans) -> None:
    def lazy(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"never"

    app = WsgiCanary(lazy, canary=canary())
    wsgi_request(app, close_early=True)
    assert not trace.get_current_span().get_span_context().is_valid
    wsgi_request(app)

    assert len(spans.servers()) == 2
    assert len({span.context.trace_id for span in spans.servers() if span.context}) == 2


def test_a_span_that_contrib_left_behind_is_not_taken_for_the_request_s(spans: Spans) -> None:
    leaking = trace.get_tracer("other").start_span("left behind", kind=SpanKind.SERVER)
    leaking.end()

    async def go() -> None:
        from opentelemetry import context

        token = context.attach(trace.set_span_in_context(leaking))
        await call(middleware(weight=100), http_scope())
        context.detach(token)

    asyncio.run(go())

    ours = [span for span in spans.servers() if span.name != "left behind"]
    assert len(ours) == 1
    assert ours[0].parent is None


def test_contrib_s_wsgi_middleware_inside_keeps_its_span(spans: Spans) -> None:
    wsgi_request(WsgiCanary(ContribWsgi(flask_app()), canary=canary(weight=100)))

    assert names.FLAG_KEY in attributes(spans.one())


@pytest.mark.parametrize(("setting", "expected"), [("never", 0), ("auto", 1), ("always", 1)])
def test_the_server_span_is_a_setting(spans: Spans, setting: str, expected: int) -> None:
    request(middleware(telemetry={"server_span": setting}))

    assert len(spans.servers()) == expected


def test_always_opens_one_below_another(spans: Spans) -> None:
    request(ContribAsgi(middleware(telemetry={"server_span": "always"})))

    ours, theirs = sorted(spans.servers(), key=lambda span: span.parent is None)
    assert ours.parent is not None
    assert theirs.context is not None
    assert ours.parent.span_id == theirs.context.span_id


# -- fallback, totals, options


def test_a_fallback_is_one_event_on_a_span_that_is_no_error(spans: Spans) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if current().version == "v2":
            raise KeyError("broken")
        await plain(scope, receive, send)

    request(middleware(app, weight=100, fallback="safe-methods"))

    span = spans.one()
    (event,) = [event for event in span.events if event.name == names.FALLBACK_EVENT]
    found = dict(event.attributes or {})
    assert found[names.VERSION] == "v2"
    assert found[names.ERROR_TYPE] == "KeyError"
    assert found["exception.type"] == "KeyError"
    assert "broken" in str(found["exception.stacktrace"])
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span)[names.VERSION] == "v2"


async def usage(scope: dict[str, Any], receive: Any, send: Any) -> None:
    telemetry.record_db(0.25, "sqlite", "SELECT")
    telemetry.record_db(0.5, "sqlite", "INSERT", "IntegrityError")
    telemetry.record_cache("hit")
    telemetry.record_cache("hit")
    telemetry.record_cache("miss")
    await plain(scope, receive, send)


TOTALS = {names.DB_COUNT: 2, names.DB_DURATION: 0.75, names.CACHE_HITS: 2, names.CACHE_MISSES: 1}


def test_what_a_request_did_with_databases_and_caches_is_on_our_span(spans: Spans) -> None:
    request(middleware(usage))

    assert attributes(spans.one()).items() >= TOTALS.items()


@pytest.mark.parametrize("ours_outside", [True, False])
def test_what_a_request_did_with_databases_and_caches_is_on_theirs(spans: Spans, ours_outside: bool) -> None:
    subject = canary()
    request(
        CanaryMiddleware(ContribAsgi(usage), canary=subject)
        if ours_outside
        else ContribAsgi(CanaryMiddleware(usage, canary=subject))
    )

    assert attributes(spans.one()).items() >= TOTALS.items()


def test_outside_a_request_nothing_is_recorded() -> None:
    from canary_middleware.telemetry.ledger import ledger

    telemetry.record_db(1, "sqlite", "SELECT")
    telemetry.record_cache("hit")

    assert ledger().db.sums() == {}
    assert ledger().cache.sums() == {}


def query(system_key: str = "db.system.name", **more: Any) -> None:
    tracer = trace.get_tracer("driver")
    with tracer.start_as_current_span(
        "SELECT shop", kind=SpanKind.CLIENT, attributes={system_key: "postgresql", **more}
    ):
        pass


def test_spans_of_database_drivers_feed_the_histogram_once(spans: Spans) -> None:
    from canary_middleware.telemetry.ledger import ledger

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        query()
        query("db.system", **{"db.operation": "UPDATE"})
        # Django's wrapper around the instrumented driver reports the same statement again.
        telemetry.record_db(1.0, "postgresql", "SELECT")
        with trace.get_tracer("driver").start_as_current_span("GET", kind=SpanKind.CLIENT):
            pass
        await plain(scope, receive, send)

    request(middleware(app, weight=100))

    assert {key: sums.count for key, sums in ledger().db.sums().items()} == {
        ("checkout", "v2", "postgresql", "SELECT", None): 1,
        ("checkout", "v2", "postgresql", "UPDATE", None): 1,
    }
    assert attributes(spans.one())[names.DB_COUNT] == 2


def test_the_identity_is_only_sent_hashed_and_only_when_asked_for(spans: Spans) -> None:
    request(middleware(telemetry={"context_id": True}), user="alice")
    request(middleware(telemetry={"context_id": True}), user="alice")
    request(middleware(telemetry={"context_id": True}), user="bob")
    request(middleware(), user="alice")

    ids = [attributes(span).get(names.FLAG_CONTEXT_ID) for span in spans.servers()]
    assert ids[0] == ids[1] != ids[2]
    assert ids[3] is None
    assert "alice" not in repr([attributes(span) for span in spans.all()])


def test_baggage_goes_downstream_when_asked_for_and_never_comes_in(spans: Spans) -> None:
    seen: list[dict[str, object]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(dict(baggage.get_all()))
        await plain(scope, receive, send)

    claimed = "canary.version=v9,shop.id=7"
    request(middleware(app, weight=100, telemetry={"baggage": True}), baggage=claimed)
    request(middleware(app, weight=100), baggage=claimed)

    assert seen[0] == {"canary.version": "v2", "canary.rollout": "checkout", "shop.id": "7"}
    assert [attributes(span)[names.VERSION] for span in spans.servers()] == ["v2", "v2"]


# -- logs


def finished_logs(exporter: Any) -> list[Any]:
    return [found.log_record for found in exporter.get_finished_logs()]


def log_exporter() -> Any:
    found = getattr(log_export, "InMemoryLogRecordExporter", None) or log_export.InMemoryLogExporter
    return found()


def test_records_are_stamped_before_a_processor_that_was_there_exports_them(spans: Spans) -> None:
    exporter = log_exporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    _logs.set_logger_provider(provider)
    seen: list[dict[str, Any]] = []
    export = exporter.export

    def watched(batch: Any) -> Any:
        seen.extend(dict(one.log_record.attributes) for one in batch)
        return export(batch)

    exporter.export = watched
    logger = logging.getLogger("shop.stamped")
    logger.addHandler(OtlpHandler())

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        logger.error("hello", extra={"order": 7})
        await plain(scope, receive, send)

    request(middleware(app, weight=100))
    logger.handlers.clear()

    (record,) = seen
    assert record[names.VERSION] == "v2"
    assert record[names.ROLLOUT] == "checkout"
    assert record["order"] == 7
    assert finished_logs(exporter)[0].trace_id == spans.one().context.trace_id  # type: ignore[union-attr]


def test_each_decision_is_an_event_when_asked_for(spans: Spans) -> None:
    exporter = log_exporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    _logs.set_logger_provider(provider)

    request(middleware(weight=100, telemetry={"flag_events": True}))
    request(middleware(weight=100))

    (record,) = finished_logs(exporter)
    found = dict(record.attributes)
    assert (getattr(record, "event_name", None) or found.get("event.name")) == names.FLAG_EVENT
    assert found.items() >= ASSIGNED.items()
    assert record.trace_id == spans.servers()[0].context.trace_id  # type: ignore[union-attr]


def test_a_plain_formatter_can_print_the_version() -> None:
    import io

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(telemetry.LogFilter())
    handler.setFormatter(logging.Formatter("[%(canary_version)s/%(canary_rollout)s] %(message)s"))
    logger = logging.getLogger("shop.plain")
    logger.addHandler(handler)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        logger.warning("inside")
        await plain(scope, receive, send)

    request(middleware(app, weight=100))
    logger.warning("outside")
    logger.removeHandler(handler)

    assert stream.getvalue() == "[v2/checkout] inside\n[/] outside\n"


def test_the_processors_can_be_put_on_a_provider_by_hand() -> None:
    assert issubclass(telemetry.SpanStamp, sys.modules["opentelemetry.sdk.trace"].SpanProcessor)
    assert issubclass(telemetry.LogStamp, sdk_logs.LogRecordProcessor)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = telemetry.Nothing
