"""
A real OTLP receiver for tests and the demo: HTTP and gRPC, traces, metrics and logs, kept in memory.

    with OtlpReceiver("http/protobuf") as otlp:
        ...start a process with otlp.env()...
        otlp.wait_for(lambda: otlp.counter_total("canary.assignments") == 20)

It can also be a bad collector: ``refuse()``, ``stall()``, ``delay()`` and back with ``accept()``.
"""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypeVar

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from .otlp_data import LogRecord, Point, Span, decode_logs, decode_points, decode_spans, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Delivery", "LogRecord", "OtlpReceiver", "Point", "Span"]

ProtocolName = Literal["http/protobuf", "grpc"]
Signal = Literal["traces", "metrics", "logs"]
T = TypeVar("T")

_HOST: Final = "127.0.0.1"
_REQUESTS: Final[dict[Signal, Any]] = {
    "traces": (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse),
    "metrics": (metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse),
    "logs": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse),
}
_GRPC_SERVICES: Final[dict[Signal, str]] = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One export request: its *size* in bytes (decompressed), its headers, and whether it was kept."""

    signal: Signal
    size: int
    headers: Mapping[str, str]
    accepted: bool


@dataclass(frozen=True, slots=True)
class _Mood:
    """How the receiver answers. One value, so that a request sees one mood; *over* ends its delay early."""

    status: int = HTTPStatus.OK
    delay_s: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)


class _Transport(Protocol):
    port: int

    def close(self) -> None: ...


class OtlpReceiver:
    """
    A collector of our own on a loopback port.

    Args:
        protocol: ``"http/protobuf"`` or ``"grpc"``.
        port: 0 takes a free one; a number lets a collector come back where it was.
    """

    def __init__(self, protocol: ProtocolName = "http/protobuf", *, port: int = 0) -> None:
        self.protocol: Final = protocol
        self.port = port
        self._arrived = threading.Condition()
        self._spans: list[Span] = []
        self._points: list[Point] = []
        self._logs: list[LogRecord] = []
        self._deliveries: list[Delivery] = []
        self._mood = _Mood()
        self._transport: _Transport | None = None

    def __enter__(self) -> Self:
        self._transport = _http(self) if self.protocol == "http/protobuf" else _grpc(self)
        self.port = self._transport.port
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and release what stalls; what has arrived stays readable."""
        self._mood.over.set()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    # How to reach it

    @property
    def endpoint(self) -> str:
        """The value of ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://{_HOST}:{self.port}"

    def env(
        self,
        *,
        service: str = "canary-tests",
        interval_ms: int = 200,
        timeout_ms: int = 2_000,
        temporality: Literal["cumulative", "delta"] = "cumulative",
        compression: Literal["gzip", "none"] = "none",
    ) -> dict[str, str]:
        """
        The environment that points a process here.

        Args:
            service: ``OTEL_SERVICE_NAME``.
            interval_ms: how often metrics, spans and logs go out. Large values test that a stop flushes.
            timeout_ms: how long an exporter waits for an answer.
            temporality: of the metrics.
            compression: of the requests.
        """
        interval = str(interval_ms)
        return {
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
            # Whole seconds: the exporters of OpenTelemetry 1.30 read it as an integer.
            "OTEL_EXPORTER_OTLP_TIMEOUT": str(max(1, round(timeout_ms / 1_000))),
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
            "OTEL_METRIC_EXPORT_INTERVAL": interval,
            "OTEL_METRIC_EXPORT_TIMEOUT": str(timeout_ms),
            "OTEL_BSP_SCHEDULE_DELAY": interval,
            "OTEL_BLRP_SCHEDULE_DELAY": interval,
        }

    # How it answers

    def refuse(self, status: int = HTTPStatus.SERVICE_UNAVAILABLE) -> None:
        """Answer every request with *status* (gRPC: 4xx is INVALID_ARGUMENT, else UNAVAILABLE) and keep nothing."""
        self._become(_Mood(status=status))

    def delay(self, seconds: float) -> None:
        """Keep what comes, but answer only after *seconds*."""
        self._become(_Mood(delay_s=seconds))

    def stall(self) -> None:
        """Keep nothing and answer nothing until another mood is asked for: a collector that hangs."""
        self._become(_Mood(status=HTTPStatus.SERVICE_UNAVAILABLE, delay_s=threading.TIMEOUT_MAX))

    def accept(self) -> None:
        """Be a good collector (again)."""
        self._become(_Mood())

    def _become(self, mood: _Mood) -> None:
        former, self._mood = self._mood, mood
        former.over.set()

    # What has arrived

    def spans(self, name: str | None = None, /, *, kind: str | None = None, **attributes: Any) -> list[Span]:
        """Spans in the order of arrival: all, or those of that *name*, *kind* ("SERVER") and *attributes*."""
        with self._arrived:
            spans = list(self._spans)
        return [
            span
            for span in spans
            if (name is None or span.name == name)
            and (kind is None or span.kind == kind)
            and matches(span.attributes, attributes)
        ]

    def metrics(self, name: str | None = None, /, **attributes: Any) -> list[Point]:
        """Every data point in the order of arrival, earlier exports of a stream included."""
        with self._arrived:
            points = list(self._points)
        return [point for point in points if name in (None, point.name) and matches(point.attributes, attributes)]

    def logs(self, **attributes: Any) -> list[LogRecord]:
        """Log records in the order of arrival."""
        with self._arrived:
            logs = list(self._logs)
        return [record for record in logs if matches(record.attributes, attributes)]

    def deliveries(self, signal: Signal | None = None) -> list[Delivery]:
        """The export requests themselves, refused ones included."""
        with self._arrived:
            return [one for one in self._deliveries if signal in (None, one.signal)]

    def metric_names(self) -> set[str]:
        """The names of all metrics that have arrived."""
        return {point.name for point in self.metrics()}

    def counter_total(self, name: str, /, **attributes: Any) -> int | float:
        """The sum of a counter over all processes and streams, right for cumulative and delta."""
        return sum(point.value for point in _effective(self.metrics(name, **attributes)))

    def histogram_count(self, name: str, /, **attributes: Any) -> int:
        """How many measurements a histogram holds over all processes and streams."""
        return sum(point.count for point in _effective(self.metrics(name, **attributes)))

    def histogram_sum(self, name: str, /, **attributes: Any) -> float:
        """The sum of a histogram's measurements over all processes and streams."""
        return sum(point.sum for point in _effective(self.metrics(name, **attributes)))

    def histogram_buckets(self, name: str, /, **attributes: Any) -> dict[float, int]:
        """Upper bound (the last is infinity) → measurements in that bucket alone, over all processes and streams."""
        totals: dict[float, int] = defaultdict(int)
        for point in _effective(self.metrics(name, **attributes)):
            for bound, count in zip((*point.bounds, float("inf")), point.buckets, strict=True):
                totals[bound] += count
        return dict(totals)

    def gauge_values(self, name: str, /, **attributes: Any) -> list[int | float]:
        """The last value of every stream of a gauge, one per process and attribute set."""
        return [point.value for point in _effective(self.metrics(name, **attributes))]

    def clear(self) -> None:
        """Forget what has arrived. Cumulative streams will report their whole sum again."""
        with self._arrived:
            for kept in (self._spans, self._points, self._logs, self._deliveries):
                kept.clear()

    def wait_for(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        """
        The first true value of *predicate*, asked again at every arrival.

        Raises:
            AssertionError: *timeout* seconds passed; tells what has arrived.
        """
        deadline = time.monotonic() + timeout
        with self._arrived:
            while not (value := predicate()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not within {timeout:g} s: last value {value!r}; {self.summary()}")
                self._arrived.wait(left)
            return value

    def summary(self) -> str:
        """One line about what has arrived, for messages."""
        with self._arrived:
            refused = sum(not one.accepted for one in self._deliveries)
            return (
                f"{len(self._spans)} spans, {len(self._points)} points of {sorted(self.metric_names())}, "
                f"{len(self._logs)} logs, {len(self._deliveries)} requests ({refused} refused)"
            )

    # The transports' side

    def _take(self, signal: Signal, request: Any, size: int, headers: Mapping[str, str]) -> int:
        """Keep *request* as the mood has it, and return the HTTP status of the answer."""
        mood = self._mood
        accepted = mood.status == HTTPStatus.OK
        delivery = Delivery(signal=signal, size=size, headers=headers, accepted=accepted)
        kept = _decode(signal, request) if accepted else []
        with self._arrived:
            self._deliveries.append(delivery)
            self._list_of(signal).extend(kept)
            self._arrived.notify_all()
        if mood.delay_s:
            mood.over.wait(mood.delay_s)
        return mood.status

    def _list_of(self, signal: Signal) -> list[Any]:
        lists: dict[Signal, list[Any]] = {"traces": self._spans, "metrics": self._points, "logs": self._logs}
        return lists[signal]


def _decode(signal: Signal, request: Any) -> list[Any]:
    if signal == "traces":
        return list(decode_spans(request.resource_spans))
    if signal == "metrics":
        return list(decode_points(request.resource_metrics))
    return list(decode_logs(request.resource_logs))


def _effective(points: Iterable[Point]) -> list[Point]:
    """The points to add up: every delta, and of each other stream only the last."""
    deltas: list[Point] = []
    last: dict[tuple[object, ...], Point] = {}
    for point in points:
        if point.temporality == "delta":
            deltas.append(point)
        elif point.stream not in last or last[point.stream].time_ns <= point.time_ns:
            last[point.stream] = point
    return deltas + list(last.values())


class _HttpTransport(ThreadingHTTPServer):
    # Connections are closed by us and their threads joined: a test must not leave a socket behind.
    daemon_threads = False
    request_queue_size = 128
    # A collector that comes back takes its old port at once.
    allow_reuse_address = True

    def __init__(self, receiver: OtlpReceiver) -> None:
        super().__init__((_HOST, receiver.port), _Handler)
        self.receiver = receiver
        self.port: int = self.server_address[1]
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="otlp-receiver")
        self._thread.start()

    def opened(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.discard(connection)

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HttpTransport

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        signal = _SIGNAL_OF_PATH.get(self.path)
        if signal is None:
            self._answer(HTTPStatus.NOT_FOUND, b"")
        elif self.headers.get_content_type() != "application/x-protobuf":
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, b"")
        else:
            self._export(signal, _inflated(body, self.headers.get("content-encoding", "")))

    def _export(self, signal: Signal, body: bytes) -> None:
        request_type, response_type = _REQUESTS[signal]
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.server.receiver._take(signal, request_type.FromString(body), len(body), headers)
        self._answer(status, response_type().SerializeToString())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Quiet."""


_SIGNAL_OF_PATH: Final[dict[str, Signal]] = {f"/v1/{signal}": signal for signal in _REQUESTS}


def _inflated(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if encoding == "deflate" else body


def _http(receiver: OtlpReceiver) -> _Transport:
    return _HttpTransport(receiver)


def _grpc(receiver: OtlpReceiver) -> _Transport:
    # Only here: a receiver for HTTP does not need grpcio.
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    def handler(signal: Signal) -> Any:
        request_type, response_type = _REQUESTS[signal]

        def export(request: Any, context: Any) -> Any:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            status = receiver._take(signal, request, request.ByteSize(), metadata)
            if status != HTTPStatus.OK:
                code = grpc.StatusCode.UNAVAILABLE if status >= 500 else grpc.StatusCode.INVALID_ARGUMENT
                context.abort(code, "refused, as the test asked")
            return response_type()

        method = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=request_type.FromString,
            response_serializer=response_type.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_GRPC_SERVICES[signal], {"Export": method})

    class GrpcTransport:
        def __init__(self) -> None:
            self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="otlp-receiver")
            self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
            self._server.add_generic_rpc_handlers(tuple(handler(signal) for signal in _REQUESTS))
            self.port: int = self._server.add_insecure_port(f"{_HOST}:{receiver.port}")
            self._server.start()

        def close(self) -> None:
            self._server.stop(grace=0).wait()
            self._pool.shutdown()

    return GrpcTransport()
