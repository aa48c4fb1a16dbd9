"""
What arrives over OTLP, as plain values: the protobuf messages are decoded here and seen nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from opentelemetry.proto.common.v1 import common_pb2
    from opentelemetry.proto.logs.v1 import logs_pb2

Attributes = MappingProxyType[str, Any]
Temporality = Literal["cumulative", "delta", "unspecified"]
Kind = Literal["sum", "gauge", "histogram", "exponential_histogram", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The instrumentation scope that made a record."""

    name: str
    version: str
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a span; *time_ns* is Unix time in nanoseconds."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link of a span; ids in hexadecimal."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A finished span. Ids are hexadecimal, *parent_id* is empty for a root, times are Unix nanoseconds."""

    name: str
    kind: Literal["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status: Literal["UNSET", "OK", "ERROR"]
    status_message: str
    trace_state: str
    resource: Attributes
    scope: Scope

    @property
    def duration_s(self) -> float:
        """From start to end, in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """
    One data point of one metric, with all that identifies its stream.

    *value* is set for sums and gauges; *count*, *sum*, *bounds*, *buckets* for histograms (``len(buckets) ==
    len(bounds) + 1``; an exponential histogram has only *count* and *sum*).
    """

    name: str
    unit: str
    description: str
    kind: Kind
    temporality: Temporality
    monotonic: bool
    attributes: Attributes
    start_ns: int
    time_ns: int
    value: int | float = 0
    count: int = 0
    sum: float = 0.0
    min: float | None = None
    max: float | None = None
    bounds: tuple[float, ...] = ()
    buckets: tuple[int, ...] = ()
    resource: Attributes
    scope: Scope
    stream: tuple[object, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One log record; *body* is decoded, ids are hexadecimal and empty outside a span."""

    body: Any
    severity: str
    severity_number: int
    event_name: str
    attributes: Attributes
    trace_id: str
    span_id: str
    time_ns: int
    resource: Attributes
    scope: Scope


def decode_value(value: common_pb2.AnyValue) -> Any:
    """The Python value of an AnyValue: arrays become tuples, key-value lists mappings, nothing None."""
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return tuple(decode_value(one) for one in value.array_value.values)
    if which == "kvlist_value":
        return decode_attributes(value.kvlist_value.values)
    return getattr(value, which)


def decode_attributes(pairs: Iterable[common_pb2.KeyValue]) -> Attributes:
    """Attributes as a read-only mapping."""
    return MappingProxyType({pair.key: decode_value(pair.value) for pair in pairs})


def matches(attributes: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """
    Whether *attributes* hold all of *wanted*; None in *wanted* means that the attribute is absent.

    A wanted name may be written with underscores for dots (``canary_version`` finds ``canary.version``).
    """
    if not wanted:
        return True
    plain = {name.replace(".", "_"): value for name, value in attributes.items()}
    return all(plain.get(name.replace(".", "_")) == value for name, value in wanted.items())


def decode_spans(resource_spans: Iterable[trace_pb2.ResourceSpans]) -> Iterator[Span]:
    """Every span of an export request, in the order sent."""
    for group in resource_spans:
        resource = decode_attributes(group.resource.attributes)
        for part in group.scope_spans:
            scope = _scope(part.scope)
            for span in part.spans:
                yield _span(span, resource, scope)


def decode_logs(resource_logs: Iterable[logs_pb2.ResourceLogs]) -> Iterator[LogRecord]:
    """Every log record of an export request, in the order sent."""
    for group in resource_logs:
        resource = decode_attributes(group.resource.attributes)
        for part in group.scope_logs:
            scope = _scope(part.scope)
            for record in part.log_records:
                yield _log(record, resource, scope)


def decode_points(resource_metrics: Iterable[metrics_pb2.ResourceMetrics]) -> Iterator[Point]:
    """Every data point of an export request, in the order sent."""
    for group in resource_metrics:
        resource = decode_attributes(group.resource.attributes)
        for part in group.scope_metrics:
            scope = _scope(part.scope)
            for metric in part.metrics:
                yield from _points(metric, resource, scope)


def _scope(scope: common_pb2.InstrumentationScope) -> Scope:
    return Scope(name=scope.name, version=scope.version, attributes=decode_attributes(scope.attributes))


def _span(span: trace_pb2.Span, resource: Attributes, scope: Scope) -> Span:
    kind: Any = trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
    status: Any = trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_")
    return Span(
        name=span.name,
        kind=kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=decode_attributes(span.attributes),
        events=tuple(
            Event(name=event.name, time_ns=event.time_unix_nano, attributes=decode_attributes(event.attributes))
            for event in span.events
        ),
        links=tuple(
            Link(
                trace_id=link.trace_id.hex(),
                span_id=link.span_id.hex(),
                attributes=decode_attributes(link.attributes),
            )
            for link in span.links
        ),
        status=status,
        status_message=span.status.message,
        trace_state=span.trace_state,
        resource=resource,
        scope=scope,
    )


def _log(record: logs_pb2.LogRecord, resource: Attributes, scope: Scope) -> LogRecord:
    return LogRecord(
        body=decode_value(record.body),
        severity=record.severity_text,
        severity_number=int(record.severity_number),
        # Absent from the messages of OpenTelemetry 1.30, where the name travels as an attribute.
        event_name=getattr(record, "event_name", ""),
        attributes=decode_attributes(record.attributes),
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        resource=resource,
        scope=scope,
    )


def _points(metric: metrics_pb2.Metric, resource: Attributes, scope: Scope) -> Iterator[Point]:
    which = metric.WhichOneof("data")
    if which is None:
        return
    data: Any = getattr(metric, which)
    kind: Any = which
    temporality = _temporality(getattr(data, "aggregation_temporality", 0))
    # The start time tells apart two processes with one resource, and a process from its own restart.
    of_process = (_frozen(resource), scope.name, metric.name)
    for point in data.data_points:
        attributes = decode_attributes(point.attributes)
        start_ns = 0 if which == "gauge" else point.start_time_unix_nano
        yield Point(
            name=metric.name,
            unit=metric.unit,
            description=metric.description,
            kind=kind,
            temporality=temporality,
            monotonic=bool(getattr(data, "is_monotonic", False)),
            attributes=attributes,
            start_ns=point.start_time_unix_nano,
            time_ns=point.time_unix_nano,
            resource=resource,
            scope=scope,
            stream=(*of_process, _frozen(attributes), start_ns),
            **_number(point) if which in {"sum", "gauge"} else _distribution(point),
        )


def _number(point: metrics_pb2.NumberDataPoint) -> dict[str, Any]:
    which = point.WhichOneof("value")
    return {"value": getattr(point, which) if which else 0}


def _distribution(point: Any) -> dict[str, Any]:
    fields = {"count": point.count, "sum": point.sum}
    if isinstance(point, metrics_pb2.HistogramDataPoint):
        fields["bounds"] = tuple(point.explicit_bounds)
        fields["buckets"] = tuple(point.bucket_counts)
    if not isinstance(point, metrics_pb2.SummaryDataPoint):
        fields["min"] = point.min if point.HasField("min") else None
        fields["max"] = point.max if point.HasField("max") else None
    return fields


def _temporality(number: int) -> Temporality:
    names: Sequence[Temporality] = ("unspecified", "delta", "cumulative")
    return names[number]


def _frozen(attributes: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((name, repr(value)) for name, value in attributes.items())
