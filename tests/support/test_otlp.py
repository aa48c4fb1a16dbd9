"""The receiver keeps exactly what a real OpenTelemetry SDK sends, over both protocols, and can be a bad collector."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, get_args

import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tests.support.client import Client
from tests.support.otlp import OtlpReceiver, ProtocolName

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPORTERS: dict[str, dict[str, Any]] = {
    "http/protobuf": {"spans": HttpSpans, "metrics": HttpMetrics, "logs": HttpLogs},
    "grpc": {"spans": GrpcSpans, "metrics": GrpcMetrics, "logs": GrpcLogs},
}
# Only what a test flushes, or a shutdown, is exported.
HOUR_MS = 3_600_000


@pytest.fixture(params=get_args(ProtocolName))
def otlp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver(request.param) as receiver:
        for name, value in receiver.env(compression="gzip").items():
            monkeypatch.setenv(name, value)
        yield receiver


def exporter(otlp: OtlpReceiver, signal: str, **options: Any) -> Any:
    return EXPORTERS[otlp.protocol][signal](**options)


def tracing(otlp: OtlpReceiver) -> TracerProvider:
    provider = TracerProvider(resource=Resource({"service.name": "shop", "host.ports": [1, 2]}))
    provider.add_span_processor(SimpleSpanProcessor(exporter(otlp, "spans")))
    return provider


def metering(otlp: OtlpReceiver, instance: str = "a", **options: Any) -> MeterProvider:
    reader = PeriodicExportingMetricReader(exporter(otlp, "metrics", **options), export_interval_millis=HOUR_MS)
    # A view, because the OTLP exporters of OpenTelemetry 1.30 override what an instrument advises.
    view = View(instrument_name="took", aggregation=ExplicitBucketHistogramAggregation([0.1, 1.0]))
    return MeterProvider([reader], resource=Resource({"service.instance.id": instance}), views=[view])


def test_a_span_arrives_with_all_its_parts(otlp: OtlpReceiver) -> None:
    provider = tracing(otlp)
    tracer = provider.get_tracer("canary_middleware", "1.2")
    linked = SpanContext(trace_id=1, span_id=2, is_remote=True, trace_flags=TraceFlags(1))
    with tracer.start_as_current_span("GET /x", kind=SpanKind.SERVER, links=[Link(linked, {"why": "retry"})]) as parent:
        with tracer.start_as_current_span("query", attributes={"n": 1, "f": 0.5, "ok": True, "list": ["a", "b"]}):
            pass
        parent.add_event("canary.fallback", {"error.type": "ValueError"})
        parent.set_status(Status(StatusCode.ERROR, "boom"))
    provider.shutdown()

    query, server = otlp.spans()
    assert (server.name, server.kind, server.status, server.status_message) == ("GET /x", "SERVER", "ERROR", "boom")
    assert server.parent_id == ""
    assert (query.parent_id, query.trace_id, query.kind) == (server.span_id, server.trace_id, "INTERNAL")
    assert dict(query.attributes) == {"n": 1, "f": 0.5, "ok": True, "list": ("a", "b")}
    assert [(event.name, dict(event.attributes)) for event in server.events] == [
        ("canary.fallback", {"error.type": "ValueError"})
    ]
    assert [(link.trace_id, link.span_id, link.attributes["why"]) for link in server.links] == [
        (f"{1:032x}", f"{2:016x}", "retry")
    ]
    assert (server.scope.name, server.scope.version) == ("canary_middleware", "1.2")
    assert (server.resource["service.name"], server.resource["host.ports"]) == ("shop", (1, 2))
    assert 0 <= query.duration_s <= server.duration_s


def test_spans_are_found_by_name_kind_and_attributes(otlp: OtlpReceiver) -> None:
    provider = tracing(otlp)
    for version in ("v1", "v2", "v2"):
        provider.get_tracer("t").start_span("s", kind=SpanKind.SERVER, attributes={"canary.version": version}).end()
    provider.shutdown()

    assert len(otlp.spans("s", kind="SERVER", canary_version="v2")) == 2
    assert len(otlp.spans(**{"canary.version": "v1"})) == 1
    assert otlp.spans(canary_version=None) == []
    assert otlp.spans(kind="CLIENT") == []


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_totals_are_exact_over_exports_and_processes(
    otlp: OtlpReceiver, temporality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality)
    processes = [metering(otlp, "a"), metering(otlp, "b")]
    for provider in processes:
        meter = provider.get_meter("m")
        counter = meter.create_counter("hits")
        histogram = meter.create_histogram("took", "s")
        for _ in range(2):
            counter.add(3, {"canary.version": "v1"})
            counter.add(1, {"canary.version": "v2"})
            histogram.record(0.05, {"canary.version": "v2"})
            histogram.record(5.0, {"canary.version": "v2"})
            provider.force_flush()
    for provider in processes:
        provider.shutdown()

    assert otlp.counter_total("hits") == 16
    assert otlp.counter_total("hits", canary_version="v2") == 4
    assert otlp.histogram_count("took") == 8
    assert otlp.histogram_sum("took") == pytest.approx(20.2)
    assert otlp.histogram_buckets("took", canary_version="v2") == {0.1: 4, 1.0: 0, float("inf"): 4}
    last = otlp.metrics("took")[-1]
    assert (last.kind, last.temporality, last.unit, last.bounds) == ("histogram", temporality, "s", (0.1, 1.0))
    assert {point.monotonic for point in otlp.metrics("hits")} == {True}
    assert all(0 < point.start_ns <= point.time_ns for point in otlp.metrics())


def test_two_processes_with_one_resource_are_told_apart_by_their_start(otlp: OtlpReceiver) -> None:
    for _ in range(2):
        provider = metering(otlp, "same")
        provider.get_meter("m").create_counter("hits").add(5)
        provider.shutdown()

    assert otlp.counter_total("hits") == 10


def test_a_gauge_has_its_last_value_per_stream(otlp: OtlpReceiver) -> None:
    provider = metering(otlp)
    gauge = provider.get_meter("m").create_gauge("weight")
    for value in (0.1, 0.5):
        gauge.set(value, {"canary.version": "v2"})
        provider.force_flush()
    provider.shutdown()

    assert otlp.gauge_values("weight", canary_version="v2") == [0.5]
    assert otlp.metric_names() == {"weight"}


# OpenTelemetry 1.45 says that the handler moves elsewhere; 1.30 has it only here.
@pytest.mark.filterwarnings("ignore:.*LoggingHandler.*:DeprecationWarning")
def test_a_log_record_arrives_with_its_body_and_span(otlp: OtlpReceiver) -> None:
    logs, traces = LoggerProvider(), tracing(otlp)
    logs.add_log_record_processor(BatchLogRecordProcessor(exporter(otlp, "logs")))
    logger = logging.Logger("shop")
    logger.addHandler(LoggingHandler(logger_provider=logs))
    with traces.get_tracer("t").start_as_current_span("s"):
        logger.warning("late %d", 7, extra={"canary.version": "v2"})
    logs.shutdown()
    traces.shutdown()

    (record,) = otlp.logs(canary_version="v2")
    (span,) = otlp.spans()
    assert (record.body, record.severity_number) == ("late 7", 13)
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
    assert otlp.logs(canary_version="v1") == []


def test_waiting_ends_when_the_last_expected_record_arrives(otlp: OtlpReceiver) -> None:
    provider = tracing(otlp)
    later = threading.Thread(target=lambda: provider.get_tracer("t").start_span("late").end())
    later.start()

    assert otlp.wait_for(lambda: otlp.spans("late"))

    later.join()
    provider.shutdown()


def test_waiting_in_vain_tells_what_has_arrived(otlp: OtlpReceiver) -> None:
    provider = metering(otlp)
    provider.get_meter("m").create_counter("hits").add(1)
    provider.shutdown()

    with pytest.raises(AssertionError, match=r"0 spans, 1 points of \['hits'\], 0 logs, 1 requests \(0 refused\)"):
        otlp.wait_for(otlp.spans, timeout=0.01)


def test_a_refusal_keeps_nothing_and_the_exporter_sees_it(otlp: OtlpReceiver) -> None:
    otlp.refuse(400)
    provider = TracerProvider()
    span = provider.get_tracer("t").start_span("s")
    span.end()
    sender = exporter(otlp, "spans")

    assert sender.export([span]) is SpanExportResult.FAILURE
    assert otlp.spans() == []
    assert [one.accepted for one in otlp.deliveries("traces")] == [False]

    otlp.accept()
    assert sender.export([span]) is SpanExportResult.SUCCESS
    assert len(otlp.spans()) == 1
    sender.shutdown()


def test_a_stalled_collector_answers_nobody_until_it_is_good_again(otlp: OtlpReceiver) -> None:
    otlp.stall()
    sender = exporter(otlp, "metrics", timeout=60)
    provider = MeterProvider([reader := PeriodicExportingMetricReader(sender, export_interval_millis=HOUR_MS)])
    provider.get_meter("m").create_counter("hits").add(1)
    answers: list[object] = []
    exporting = threading.Thread(target=lambda: answers.append(reader.force_flush()))
    exporting.start()
    otlp.wait_for(lambda: otlp.deliveries("metrics"))
    assert answers == []
    assert otlp.metrics() == []

    otlp.accept()
    otlp.wait_for(otlp.metrics, timeout=20)

    exporting.join()
    provider.shutdown()
    assert otlp.counter_total("hits") == 1


def test_a_slow_collector_keeps_what_came_although_its_answer_is_late(otlp: OtlpReceiver) -> None:
    otlp.delay(60)
    provider = TracerProvider()
    span = provider.get_tracer("t").start_span("s")
    span.end()
    sender = exporter(otlp, "spans", timeout=60)
    answers: list[SpanExportResult] = []
    exporting = threading.Thread(target=lambda: answers.append(sender.export([span])))
    exporting.start()

    otlp.wait_for(lambda: otlp.spans("s"))

    assert answers == []
    otlp.accept()
    exporting.join()
    assert answers == [SpanExportResult.SUCCESS]
    sender.shutdown()


def test_requests_can_be_compressed_and_are_seen_as_they_came(otlp: OtlpReceiver) -> None:
    provider = tracing(otlp)
    provider.get_tracer("t").start_span("s").end()
    provider.shutdown()

    (delivery,) = otlp.deliveries()
    assert delivery.accepted
    assert delivery.size > 0
    assert "OTLP" in delivery.headers["user-agent"].upper() or "grpc" in delivery.headers["user-agent"]
    if otlp.protocol == "http/protobuf":
        assert delivery.headers["content-encoding"] == "gzip"


def test_what_was_cleared_is_forgotten(otlp: OtlpReceiver) -> None:
    provider = tracing(otlp)
    provider.get_tracer("t").start_span("s").end()
    provider.shutdown()

    otlp.clear()

    assert otlp.spans() == []
    assert otlp.deliveries() == []


def test_a_closed_receiver_frees_its_port_and_comes_back_on_it(otlp: OtlpReceiver) -> None:
    otlp.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", otlp.port), timeout=1)

    with OtlpReceiver(otlp.protocol, port=otlp.port) as again:
        assert again.port == otlp.port
        with socket.create_connection(("127.0.0.1", again.port), timeout=1):
            pass


def test_http_says_no_to_other_paths_and_other_content() -> None:
    with OtlpReceiver("http/protobuf") as receiver, Client(receiver.endpoint) as client:
        assert client.request("POST", "/v1/profiles", body=b"").status == 404
        assert client.post("/v1/traces", {}).status == 415
        assert receiver.deliveries() == []


def test_metric_export_result_is_success_over_both_protocols(otlp: OtlpReceiver) -> None:
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    provider.get_meter("m").create_counter("hits").add(2)
    sender = exporter(otlp, "metrics")

    assert sender.export(reader.get_metrics_data()) is MetricExportResult.SUCCESS
    assert otlp.counter_total("hits") == 2
    sender.shutdown()
    provider.shutdown()
