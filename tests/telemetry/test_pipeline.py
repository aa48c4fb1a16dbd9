"""Our own pipeline to a real receiver: exact, bounded, and asked for by the standard variables only."""

from __future__ import annotations

import io
import logging
import os
import random
import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from canary_middleware import Canary, telemetry
from canary_middleware._core.tallies import OTEL_BOUNDS_S
from canary_middleware.errors import ConfigError
from canary_middleware.telemetry import names, pipeline
from tests.telemetry.drive import canary, middleware, plain, request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.otlp import OtlpReceiver


class Clock:
    """Seconds as they are set, per thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(self) -> float:
        now: float = getattr(self._local, "now", 0.0)
        return now

    def advance(self, seconds: float) -> None:
        self._local.now = self() + seconds


def lasting(clock: Clock, durations: list[float]) -> Any:
    """An app whose requests last as *durations* say."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        clock.advance(durations.pop())
        await plain(scope, receive, send)

    return app


@pytest.mark.parametrize("temporality", ["cumulative", "delta", "lowmemory"])
def test_every_duration_lies_in_its_bucket_after_several_exports(
    otlp: OtlpReceiver, point_at: Callable[..., None], temporality: Any
) -> None:
    rng = random.Random(7)
    durations = [rng.choice([*OTEL_BOUNDS_S, rng.lognormvariate(-3, 2)]) for _ in range(300)]
    expected = [0] * (len(OTEL_BOUNDS_S) + 1)
    for duration in durations:
        expected[bisect_left(OTEL_BOUNDS_S, duration)] += 1
    point_at(otlp, temporality=temporality)
    telemetry.configure_telemetry()
    clock = Clock()
    total = sum(durations)
    left = [0.0, *durations]
    app = middleware(lasting(clock, left), clock=clock)

    # Thread-local time would drift by rounding: every request starts at zero.
    for number in range(300):
        clock._local.now = 0.0
        request(app, user=str(number))
        if number % 100 == 99:
            assert telemetry.flush()

    assert list(otlp.histogram_buckets(names.REQUEST_DURATION).values()) == expected
    assert otlp.histogram_sum(names.REQUEST_DURATION) == pytest.approx(total)
    assert otlp.counter_total(names.ASSIGNMENTS) == 300


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_eight_threads_lose_nothing_while_exports_run(
    otlp: OtlpReceiver, point_at: Callable[..., None], temporality: Any
) -> None:
    point_at(otlp, temporality=temporality, interval_ms=5)
    telemetry.configure_telemetry()
    app = middleware()

    def work(number: int) -> None:
        for turn in range(100):
            request(app, path="/500" if turn % 10 == 0 else "/cart", user=f"{number}-{turn}")
            telemetry.record_cache("hit")  # outside a request: not ours to count

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert telemetry.flush()

    assert otlp.histogram_count(names.REQUEST_DURATION) == 800
    assert otlp.histogram_count(names.REQUEST_DURATION, **{names.ERROR_TYPE: "500"}) == 80
    assert otlp.counter_total(names.ASSIGNMENTS) == 800
    assert len(otlp.spans(kind="SERVER")) == 800
    assert otlp.counter_total(names.CACHE_OPERATIONS) == 0


def test_what_a_collector_refused_is_in_the_next_delta(otlp: OtlpReceiver, point_at: Callable[..., None]) -> None:
    point_at(otlp, temporality="delta")
    telemetry.configure_telemetry()
    app = middleware()

    request(app)
    otlp.refuse(400)
    assert not telemetry.flush()
    request(app)
    otlp.accept()
    assert telemetry.flush()
    assert telemetry.flush()

    assert otlp.histogram_count(names.REQUEST_DURATION) == 2
    assert otlp.counter_total(names.ASSIGNMENTS) == 2


def test_a_flush_ends_on_time_and_requests_do_not_wait_with_the_collector_hanging(
    otlp: OtlpReceiver, point_at: Callable[..., None]
) -> None:
    point_at(otlp, timeout_ms=30_000)
    telemetry.configure_telemetry()
    app = middleware()
    otlp.stall()
    request(app)

    began = time.monotonic()
    assert not telemetry.flush(0.5)
    assert time.monotonic() - began < 2

    began = time.monotonic()
    for _ in range(50):
        request(app)
    assert time.monotonic() - began < 2

    began = time.monotonic()
    assert not telemetry.shutdown(0.5)
    assert time.monotonic() - began < 2


def test_all_who_end_a_process_wait_once_for_a_collector_that_hangs(
    otlp: OtlpReceiver, point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(otlp, timeout_ms=30_000)
    telemetry.configure_telemetry()
    monkeypatch.setattr(pipeline, "DEFAULT_TIMEOUT_S", 1.0)
    both = middleware(), middleware()
    otlp.stall()
    for one in both:
        request(one)

    began = time.monotonic()
    for one in both:
        one.canary.close(1.0)
    assert pipeline._pipeline is not None
    pipeline._pipeline._at_exit()

    assert 0.9 < time.monotonic() - began < 1.9


def test_who_serves_again_is_waited_for_again(
    otlp: OtlpReceiver, point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(otlp)
    telemetry.configure_telemetry()
    app = middleware()
    request(app)
    app.canary.close()
    monkeypatch.setattr(pipeline, "_waited_s", 60.0)

    request(app)

    assert telemetry.farewell()
    assert otlp.histogram_count(names.REQUEST_DURATION) == 2


def test_a_flush_hands_over_to_the_other_collectors_while_one_hangs(
    point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.otlp import OtlpReceiver

    with OtlpReceiver() as good, OtlpReceiver() as bad:
        point_at(good)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{bad.endpoint}/v1/traces")
        bad.stall()
        telemetry.configure_telemetry()
        request(middleware())

        assert not telemetry.flush(2)

        assert good.histogram_count(names.REQUEST_DURATION) == 1


def test_nothing_is_set_up_without_an_endpoint() -> None:
    telemetry.configure_telemetry()

    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    assert telemetry.recorder(canary()) is None
    assert telemetry.flush()
    assert telemetry.shutdown()


def test_a_disabled_sdk_stays_silent(
    otlp: OtlpReceiver, point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(otlp)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    telemetry.configure_telemetry()

    assert telemetry.recorder(canary()) is None
    request(middleware())
    assert telemetry.flush()
    assert otlp.deliveries() == []


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_a_signal_whose_exporter_is_none_is_left_out(
    otlp: OtlpReceiver, point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch, signal: Any
) -> None:
    point_at(otlp)
    monkeypatch.setenv(f"OTEL_{signal.upper()}_EXPORTER", "none")
    telemetry.configure_telemetry()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        logging.getLogger("shop").warning("hello")
        await plain(scope, receive, send)

    request(middleware(app))
    assert telemetry.flush()

    arrived = {one for one in ("traces", "metrics", "logs") if otlp.deliveries(one)}  # type: ignore[arg-type]
    assert arrived == {"traces", "metrics", "logs"} - {signal}


def test_configuring_twice_changes_nothing(otlp: OtlpReceiver, point_at: Callable[..., None]) -> None:
    point_at(otlp)
    telemetry.configure_telemetry()
    before = (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider())
    telemetry.configure_telemetry()
    telemetry.configure_telemetry(service_name="other")
    subject = canary()
    for _ in range(3):
        telemetry.recorder(subject)

    assert (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()) == before
    app = middleware()
    for _ in range(5):
        request(app)
    logging.getLogger("shop").warning("once")
    assert telemetry.flush()
    assert len(otlp.spans()) == 5
    assert len(otlp.logs()) == 1
    assert otlp.histogram_count(names.REQUEST_DURATION) == 5


def test_a_provider_that_is_there_only_gets_our_stamp(otlp: OtlpReceiver, point_at: Callable[..., None]) -> None:
    point_at(otlp)
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    telemetry.configure_telemetry()
    telemetry.configure_telemetry()

    request(middleware(weight=100))

    assert trace.get_tracer_provider() is provider
    assert telemetry.flush()
    assert otlp.spans() == []
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes[names.VERSION] == "v2"


def test_several_canaries_add_up_and_one_that_is_dropped_keeps_its_totals(
    otlp: OtlpReceiver, point_at: Callable[..., None]
) -> None:
    import gc
    import weakref

    point_at(otlp)
    telemetry.configure_telemetry()
    first, second = middleware(name="cart"), middleware(name="search")
    for _ in range(3):
        request(first)
        request(second)
    gone = weakref.ref(first.canary)
    del first
    gc.collect()

    assert gone() is None
    request(second)
    assert telemetry.flush()
    assert telemetry.flush()
    assert otlp.histogram_count(names.REQUEST_DURATION, **{names.ROLLOUT: "cart"}) == 3
    assert otlp.histogram_count(names.REQUEST_DURATION, **{names.ROLLOUT: "search"}) == 4
    assert otlp.counter_total(names.ASSIGNMENTS) == 7


def test_beyond_the_cap_attribute_sets_share_one_and_one_warning_is_given(
    otlp: OtlpReceiver, point_at: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    point_at(otlp)
    telemetry.configure_telemetry(log_handler=False)
    subject = canary()
    telemetry.recorder(subject)
    record = exchanges(subject)

    for number in range(2_500):
        record(f"/route-{number}")
    assert telemetry.flush()
    for number in range(2_500):
        record(f"/route-{number}")
    assert telemetry.flush()

    last = {point.stream: point for point in otlp.metrics(names.REQUEST_DURATION)}
    assert len(last) <= 2_000
    assert otlp.histogram_count(names.REQUEST_DURATION) == 5_000
    assert otlp.histogram_count(names.REQUEST_DURATION, **{names.OVERFLOW: True}) > 0
    assert len([one for one in caplog.records if "attribute sets" in one.getMessage()]) == 1


def exchanges(subject: Canary) -> Callable[[str], None]:
    """Counts one finished request per call, straight in the subject's counts."""
    from canary_middleware._core.exchange import Exchange
    from canary_middleware._core.lifecycle.rollout import Assignment, Variants

    variant = Variants().get("checkout", "v1", "stable", "weight")

    def record(route: str) -> None:
        exchange = Exchange("GET")
        exchange.variant, exchange.assignment = variant, Assignment(variant, 1, bytes(8))
        exchange.status, exchange.route, exchange.duration = 200, route, 0.01
        subject.counts.begin(variant)
        subject.counts.end(exchange)

    return record


def test_two_versions_weights_revisions_and_errors_are_observed(
    otlp: OtlpReceiver, point_at: Callable[..., None]
) -> None:
    point_at(otlp)
    telemetry.configure_telemetry()
    app = middleware(weight=30)
    app.canary.troubles.report("identity", KeyError("x"), "nothing")
    request(app)
    assert telemetry.flush()

    assert otlp.gauge_values(names.ROLLOUT_WEIGHT, **{names.VERSION: "v2"}) == [0.3]
    assert otlp.gauge_values(names.ROLLOUT_WEIGHT, **{names.VERSION: "v1"}) == [0.7]
    assert otlp.gauge_values(names.ROLLOUT_REVISION) == [0]
    assert otlp.gauge_values(names.SNAPSHOT_AGE)[0] >= 0
    assert otlp.gauge_values(names.ACTIVE_REQUESTS) == [0]
    assert otlp.counter_total(names.INTERNAL_ERRORS, **{names.COMPONENT: "identity", names.ERROR_TYPE: "KeyError"}) == 1


def test_a_client_that_left_is_counted_apart(otlp: OtlpReceiver, point_at: Callable[..., None]) -> None:
    point_at(otlp)
    telemetry.configure_telemetry()
    app = middleware(weight=0)
    seen: list[float] = []

    async def leaving(scope: dict[str, Any], receive: Any, send: Any) -> None:
        app.canary.counts.snapshot()
        from canary_middleware._core.exchange import Exchange, active

        exchange = active.get()
        assert isinstance(exchange, Exchange)
        assert telemetry.flush()
        seen.extend(otlp.gauge_values(names.ACTIVE_REQUESTS))
        exchange.aborted()

    app.app = leaving
    request(app)
    assert telemetry.flush()

    assert seen == [1]
    assert otlp.histogram_count(names.REQUEST_DURATION) == 0
    assert otlp.counter_total(names.ABORTED_REQUESTS, **{names.VERSION: "v1"}) == 1


def test_logging_that_is_configured_later_still_works(
    otlp: OtlpReceiver, point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    point_at(otlp)
    telemetry.configure_telemetry()

    stream = io.StringIO()
    logging.basicConfig(level=logging.INFO, stream=stream)

    assert len(root.handlers) == 1
    request(middleware())
    logging.getLogger("shop").warning("hello")
    assert telemetry.flush()
    assert [record.body for record in otlp.logs()] == ["hello"]
    assert "WARNING:shop:hello\n" in stream.getvalue()


def test_warnings_of_an_app_without_logging_still_reach_stderr(
    otlp: OtlpReceiver,
    point_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    point_at(otlp)
    telemetry.configure_telemetry()
    request(middleware())
    assert len(root.handlers) == 1

    logging.getLogger("shop").warning("look here")
    logging.getLogger("opentelemetry.exporter").warning("never")

    assert "look here" in capsys.readouterr().err
    assert telemetry.flush()
    assert [record.body for record in otlp.logs()] == ["look here"]


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost", "http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "udp", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "none, gzip, deflate"),
        ("OTEL_TRACES_EXPORTER", "jaeger", "otlp"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "traceidratio"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-5", "milliseconds"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "milliseconds"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "whole number"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000", "OTEL_BSP_MAX_QUEUE_SIZE"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "soon", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "both", "cumulative, delta, lowmemory"),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it_and_what_is_right(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, right: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError) as caught:
        telemetry.configure_telemetry()

    assert name in str(caught.value)
    assert value in str(caught.value)
    assert right in str(caught.value)


def test_a_wrong_sampling_share_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "10")

    with pytest.raises(ConfigError, match=r"OTEL_TRACES_SAMPLER_ARG is '10'.*0 … 1"):
        telemetry.configure_telemetry()


def test_the_service_name_of_the_environment_wins(
    otlp: OtlpReceiver, point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(otlp)
    monkeypatch.delenv("OTEL_SERVICE_NAME")
    telemetry.configure_telemetry(service_name="shop")
    request(middleware())
    assert telemetry.flush()

    assert otlp.spans()[0].resource["service.name"] == "shop"
    assert otlp.metrics()[0].resource["service.name"] == "shop"
    assert otlp.metrics()[0].resource[names.PROCESS_ID] == os.getpid()
    if names.INSTANCE_ID in otlp.spans()[0].resource:
        assert otlp.metrics()[0].resource[names.INSTANCE_ID] == otlp.spans()[0].resource[names.INSTANCE_ID]


def test_a_full_queue_drops_new_spans_and_says_so_once(
    otlp: OtlpReceiver,
    point_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    point_at(otlp, timeout_ms=30_000)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    telemetry.configure_telemetry(log_handler=False)
    otlp.stall()
    app = middleware()

    for _ in range(20):
        request(app)

    assert len([one for one in caplog.records if "dropped" in one.getMessage()]) == 1


def test_other_libraries_metrics_go_out_beside_ours(otlp: OtlpReceiver, point_at: Callable[..., None]) -> None:
    point_at(otlp, temporality="delta")
    telemetry.configure_telemetry()
    counter = metrics.get_meter("shop").create_counter("shop.orders")
    counter.add(2)
    assert telemetry.flush()
    counter.add(3)
    request(middleware())
    assert telemetry.flush()

    assert otlp.counter_total("shop.orders") == 5
    assert otlp.histogram_count(names.REQUEST_DURATION) == 1


def test_importing_telemetry_loads_no_sdk() -> None:
    import subprocess
    import sys

    code = (
        "import sys, canary_middleware.telemetry; "
        "sys.exit(any(name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'grpc', 'google')) "
        "for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}, check=False).returncode == 0


def test_our_providers_are_known_as_ours(otlp: OtlpReceiver, point_at: Callable[..., None]) -> None:
    point_at(otlp)
    telemetry.configure_telemetry()

    assert pipeline.owns(trace.get_tracer_provider())
    assert not pipeline.owns(TracerProvider())
