"""
The server span of our own pipeline, which costs a third of the SDK's.

The SDK cleans, bounds and locks every attribute while the request waits. Here they are kept as they come, and become a
span of the SDK in the exporting thread. Only where nobody else listens: other span processors get the SDK's own.
"""

from __future__ import annotations

from time import time_ns
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)

from . import names
from .processors import SpanQueue, SpanStamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor

_UNSET: Final = Status(StatusCode.UNSET)


class Provider(TracerProvider):
    """The SDK's, which knows whether anybody but us listens to its spans."""

    has_listeners = False

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Let *span_processor* hear of every span."""
        if not isinstance(span_processor, (SpanStamp, SpanQueue)):
            self.has_listeners = True
        super().add_span_processor(span_processor)


class Opener:
    """
    Opens server spans.

    Args:
        put: takes what has ended; see ``LightSpan.finished``.
    """

    def __init__(self, provider: Provider, put: Callable[[object], None], version: str) -> None:
        self._provider = provider
        self._put = put
        self._tracer = provider.get_tracer(names.SCOPE, version)
        self._scope = InstrumentationScope(names.SCOPE, version)
        self._limits = SpanLimits()
        is_random = getattr(provider.id_generator, "is_trace_id_random", bool)()
        self._root_flags = TraceFlags.RANDOM_TRACE_ID if is_random else 0  # type: ignore[attr-defined, unused-ignore]

    def open(self, name: str, parent: Context, attributes: Mapping[str, Any]) -> Span:
        """A span that has begun. Any: the attributes of OpenTelemetry."""
        provider = self._provider
        if provider.has_listeners:
            return self._tracer.start_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes)
        above: SpanContext | None = get_current_span(parent).get_span_context()
        if above is None or not above.is_valid:
            above = None
            trace_id, flags = provider.id_generator.generate_trace_id(), self._root_flags
        else:
            trace_id, flags = above.trace_id, above.trace_flags & ~TraceFlags.SAMPLED
        decided: Any = provider.sampler.should_sample(parent, trace_id, name, SpanKind.SERVER, attributes, ())
        if decided.decision.is_sampled():
            flags |= TraceFlags.SAMPLED
        context = SpanContext(
            trace_id, provider.id_generator.generate_span_id(), False, TraceFlags(flags), decided.trace_state
        )
        if not decided.decision.is_recording():
            return NonRecordingSpan(context)
        return LightSpan(self, name, context, above, dict(decided.attributes or {}))

    def ended(self, span: LightSpan) -> None:
        """Queue *span*, where it was sampled."""
        if span.context.trace_flags.sampled:
            self._put(span)

    def finished(self, span: LightSpan) -> ReadableSpan:
        """*span* as exporters take it, within the limits of the environment."""
        limits = self._limits
        events = [
            Event(name, _bounded(found, limits.max_event_attributes, limits.max_attribute_length), timestamp)
            for name, found, timestamp in span.events[: limits.max_events]
        ]
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=self._provider.resource,
            attributes=_bounded(span.attributes, limits.max_span_attributes, limits.max_span_attribute_length),
            events=events,
            links=span.links[: limits.max_links],
            kind=SpanKind.SERVER,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=self._scope,
        )


def _bounded(attributes: Mapping[str, Any], most: int | None, longest: int | None) -> BoundedAttributes:
    return BoundedAttributes(most, attributes, immutable=True, max_value_len=longest)


class LightSpan(Span):
    """A server span while the request runs. Steps of one thread at a time, or atomic ones, change it."""

    kind = SpanKind.SERVER

    def __init__(
        self, opener: Opener, name: str, context: SpanContext, parent: SpanContext | None, attributes: dict[str, Any]
    ) -> None:
        self._opener = opener
        self.name = name
        self.context = context
        self.parent = parent
        self.attributes = attributes
        self.events: list[tuple[str, Mapping[str, Any], int]] = []
        self.links: list[Link] = []
        self.status = _UNSET
        self.start_time = time_ns()
        self.end_time: int | None = None

    def finished(self) -> ReadableSpan:
        """The same as the SDK knows it."""
        return self._opener.finished(self)

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return self.end_time is None

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self.end_time is None:
            self.attributes.update(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        if self.end_time is None:
            self.attributes[key] = value

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        if self.end_time is None:
            self.events.append((name, dict(attributes or {}), time_ns() if timestamp is None else timestamp))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        if self.end_time is None and context.is_valid:
            self.links.append(Link(context, attributes))

    def update_name(self, name: str) -> None:
        if self.end_time is None:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """OK is final, and UNSET never takes anything back: as the specification has it."""
        wanted = status if isinstance(status, Status) else Status(status, description)
        if self.end_time is None and self.status.status_code is not StatusCode.OK and not wanted.is_unset:
            self.status = wanted

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        found = {
            names.EXCEPTION_TYPE: _class_name(exception),
            names.EXCEPTION_MESSAGE: str(exception),
            names.EXCEPTION_STACKTRACE: "".join(format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**found, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self.end_time is None:
            self.end_time = time_ns() if end_time is None else end_time
            self._opener.ended(self)


def _class_name(error: BaseException) -> str:
    found = type(error)
    return found.__qualname__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__qualname__}"


def finished(items: list[Any]) -> list[Any]:
    """A batch as exporters take it. Any: spans of the SDK and ours."""
    return [item.finished() if isinstance(item, LightSpan) else item for item in items]
