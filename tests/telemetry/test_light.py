"""The light server span behaves, and arrives, as the SDK's own would."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from canary_middleware import telemetry
from canary_middleware.telemetry import names
from canary_middleware.telemetry.light import LightSpan
from tests.support.otlp import OtlpReceiver, Span
from tests.telemetry.drive import middleware, plain, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OTHER = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))


@pytest.fixture
def http(point_at: Callable[..., None]) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        point_at(receiver)
        yield receiver


def arrived(otlp: OtlpReceiver, work: Callable[[Any], None], *, listener: bool) -> Span:
    """The server span of one request whose app does *work* with it; the SDK's own where somebody listens."""
    telemetry.configure_telemetry(log_handler=False)
    if listener:
        provider: Any = trace.get_tracer_provider()
        provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        span = trace.get_current_span()
        assert isinstance(span, LightSpan) is not listener
        assert span.is_recording()
        work(span)
        await plain(scope, receive, send)

    request(middleware(app, weight=100))
    assert telemetry.flush()
    (span,) = otlp.spans(kind="SERVER")
    return span


def attributes(span: Any) -> None:
    span.set_attribute("app.order", 7)
    span.set_attributes({"app.tags": ["a", "b"], "app.price": 1.5, "app.bad": object()})


def events(span: Any) -> None:
    span.add_event("cart.full", {"size": 3}, timestamp=1_000)
    span.add_event("plain")
    span.add_link(OTHER, {"why": "retry"})
    try:
        raise KeyError("gone")
    except KeyError as error:
        span.record_exception(error, {"extra": True})


def status(span: Any) -> None:
    span.set_status(StatusCode.ERROR, "late")
    span.set_status(Status(StatusCode.UNSET))
    span.update_name("named by the app")


def final_status(span: Any) -> None:
    span.set_status(StatusCode.OK)
    span.set_status(StatusCode.ERROR, "too late")


@pytest.mark.parametrize("work", [attributes, events, status, final_status])
def test_it_arrives_as_the_sdk_s_own(
    http: OtlpReceiver, work: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    light = arrived(http, work, listener=False)
    http.clear()
    heavy = arrived(http, work, listener=True)
    caplog.clear()  # both warn of the value that no attribute can have

    varying = ("trace_id", "span_id", "start_ns", "end_ns")
    left = {name: getattr(light, name) for name in light.__dataclass_fields__ if name not in varying}
    right = {name: getattr(heavy, name) for name in heavy.__dataclass_fields__ if name not in varying}
    assert _timeless(left) == _timeless(right)
    assert light.end_ns >= light.start_ns


def _timeless(fields: dict[str, Any]) -> dict[str, Any]:
    """Without the times and line numbers in events."""
    found = dict(fields)
    found["events"] = [
        (event.name, {key: value for key, value in event.attributes.items() if key != "exception.stacktrace"})
        for event in fields["events"]
    ]
    return found


def test_after_its_end_nothing_changes_it(http: OtlpReceiver) -> None:
    kept: list[Any] = []
    span = arrived(http, kept.append, listener=False)
    late: LightSpan = kept[0]

    late.set_attribute("late", 1)
    late.set_attributes({"late": 1})
    late.add_event("late")
    late.add_link(OTHER)
    late.update_name("late")
    late.set_status(StatusCode.ERROR)
    late.end()

    assert not late.is_recording()
    assert telemetry.flush()
    assert http.spans(kind="SERVER") == [span]
    assert late.name == "GET"
    assert "late" not in late.attributes
    assert (late.events, late.links) == ([], [])


def test_the_limits_of_the_environment_hold(http: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10")

    span = arrived(http, lambda span: span.set_attribute("long", "x" * 100), listener=False)

    assert span.attributes["long"] == "x" * 10


def test_a_sampled_child_belongs_to_its_parent_s_trace(http: OtlpReceiver) -> None:
    telemetry.configure_telemetry(log_handler=False)
    request(middleware(), traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    request(middleware(), traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    assert telemetry.flush()

    (span,) = http.spans(kind="SERVER")
    assert span.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent_id == "b7ad6b7169203331"


def test_roots_are_traces_of_their_own(http: OtlpReceiver) -> None:
    telemetry.configure_telemetry(log_handler=False)
    for _ in range(10):
        request(middleware())
    assert telemetry.flush()

    assert len({span.trace_id for span in http.spans()}) == 10
    assert len({span.span_id for span in http.spans()}) == 10


def test_the_sampler_of_the_environment_decides(http: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    telemetry.configure_telemetry(log_handler=False)
    logging.getLogger("shop").info("nothing")

    request(middleware())
    assert telemetry.flush()

    assert http.spans() == []
    assert http.histogram_count(names.REQUEST_DURATION) == 1
