"""
Our telemetry and the contrib instrumentations', which send the same things to the same collector.

Both queue what they have, and it is handed over between the rounds: what is compared is what a request waits for. One
row counts the encoding and sending, too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation import asgi as contrib_asgi
from opentelemetry.instrumentation import wsgi as contrib_wsgi
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from canary_middleware import asgi, wsgi
from canary_middleware.telemetry import configure_telemetry, flush

from . import traffic
from .apps import asgi_app, wsgi_app
from .canaries import canary
from .measure import Timings, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effort import Effort
    from .measure import Prepare


class _Contrib:
    """Providers for the contrib instrumentations, handed to them: the global ones are ours."""

    def __init__(self) -> None:
        self.spans = BatchSpanProcessor(OTLPSpanExporter())
        self.tracers = TracerProvider(sampler=ALWAYS_ON)
        self.tracers.add_span_processor(self.spans)
        self.meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])

    def asgi(self) -> Any:
        """One span per request, as ours: by default there would be one more per message."""
        return contrib_asgi.OpenTelemetryMiddleware(
            asgi_app, tracer_provider=self.tracers, meter_provider=self.meters, exclude_spans=["receive", "send"]
        )

    def wsgi(self) -> Any:
        return contrib_wsgi.OpenTelemetryMiddleware(wsgi_app, tracer_provider=self.tracers, meter_provider=self.meters)

    def flush(self) -> None:
        self.spans.force_flush()


def asgi_requests(effort: Effort) -> Timings:
    """A request through our door, with what the environment asks for, and through contrib's."""
    contrib, settle = _set_up()
    ours = asgi.CanaryMiddleware(asgi_app, canary=canary())
    return compare(traffic.asgi(ours), traffic.asgi(contrib.asgi()), effort, settle=settle)


def asgi_exported(effort: Effort) -> Timings:
    """The same, with all CPU that the process spends until the collector has everything."""
    contrib, settle = _set_up()
    ours = traffic.asgi(asgi.CanaryMiddleware(asgi_app, canary=canary()))
    return compare(
        _then(ours, settle), _then(traffic.asgi(contrib.asgi()), contrib.flush), effort, clock=time.process_time
    )


def wsgi_requests(effort: Effort) -> Timings:
    """The same through the WSGI doors."""
    contrib, settle = _set_up()
    ours = wsgi.CanaryMiddleware(wsgi_app, canary=canary())
    return compare(traffic.wsgi(ours), traffic.wsgi(contrib.wsgi()), effort, settle=settle)


def _set_up() -> tuple[_Contrib, Callable[[], None]]:
    configure_telemetry(log_handler=False)
    contrib = _Contrib()

    def settle() -> None:
        flush()
        contrib.flush()

    return contrib, settle


def _then(prepare: Prepare, settle: Callable[[], None]) -> Prepare:
    def prepared(count: int) -> Callable[[], object]:
        serve = prepare(count)

        def served() -> None:
            serve()
            settle()

        return served

    return prepared
