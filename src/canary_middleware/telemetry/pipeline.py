"""
From this process to a collector: providers, stamps and exporters, set up from OpenTelemetry's standard variables.

Threads and connections are opened in the process that serves, at its first request, span or log record: a fork keeps
neither, and a pre-fork server's master needs none.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import _logs, metrics, trace

from .._troubles import logger
from ..errors import ConfigError
from . import names
from .ledger import ledger
from .logs import OtlpHandler
from .providers import configured, package_version
from .pump import Batch, Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Tracer

    from .exporters import Exporter
    from .settings import Settings, Signal

    OpenSpan = Callable[[str, Context, Mapping[str, Any]], trace.Span]

DEFAULT_TIMEOUT_S: Final = 5.0
"""Longest that a shutdown waits for collectors, all signals together; servers and Kubernetes grant 30 s."""

# A fork waits no longer than this for a collection of metrics to end; collections take milliseconds.
_FORK_WAIT_S: Final = 1.0


def configure_telemetry(*, service_name: str | None = None, log_handler: bool = True) -> None:
    """
    Send spans, metrics and logs by OTLP, as the standard ``OTEL_*`` variables say.

    Call it before the first request. Where they name no endpoint (and no exporter), nothing happens. Where a provider
    is set up already, it stays and only gets our stamps. Calling it again changes nothing.

    Args:
        service_name: ``service.name`` where ``OTEL_SERVICE_NAME`` is not set.
        log_handler: send the records of ``logging``'s root logger, too. Where logging is not configured yet, that waits
            until the first request, so that a later ``logging.basicConfig()`` still works.
    Raises:
        ConfigError: a variable has a value that cannot be meant; it says which would be right.
    """
    global _pipeline
    from .settings import read_settings

    with _configuring:
        stamp_providers(configured(trace.get_tracer_provider()), configured(_logs.get_logger_provider()))
        if _pipeline is not None:
            return
        settings = read_settings(os.environ)
        if settings.protocols:
            _pipeline = Pipeline(settings, service_name, wants_handler=log_handler)
            _pipeline.install()


def flush(timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """
    Hand over everything that is counted or queued; providers that somebody else set up are flushed as well.

    Returns:
        whether all collectors took it, within *timeout_s* seconds. Never waits longer.
    """
    deadline = time.monotonic() + timeout_s
    waits = _flush_others(timeout_s)
    if _pipeline is not None:
        waits += _pipeline.flush()
    return _all(waits, deadline)


def farewell(timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """
    Flush because this process stops serving.

    Several may be said, and the interpreter's exit is one more: all together wait in vain for *timeout_s* at most, or
    a collector that is away would hold the process up once per Canary and once more.

    Returns:
        whether all collectors took it.
    """
    global _waited_s
    began = time.monotonic()
    if flush(max(0.0, timeout_s - _waited_s)):
        return True
    _waited_s += time.monotonic() - began
    return False


def shutdown(timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
    """Flush our own pipeline and end its threads; at most *timeout_s* seconds. Called when the interpreter exits."""
    return True if _pipeline is None else _pipeline.shutdown(timeout_s)


def start() -> None:
    """This process serves: open its threads. Does nothing where ``configure_telemetry`` set nothing up."""
    global _waited_s
    _waited_s = 0.0
    if _pipeline is not None:
        _pipeline.attach_handler()
        if not _is_uwsgi_master():
            _pipeline.running()


def owns(provider: object) -> bool:
    """Whether *provider* is one of our own pipeline's."""
    return _pipeline is not None and provider in _pipeline.providers


def span_opener(provider: object, tracer: Tracer) -> OpenSpan:
    """What opens server spans on *provider*: the global one, whose *tracer* is ours."""
    if _pipeline is not None and _pipeline.open_span is not None and provider in _pipeline.providers:
        return _pipeline.open_span

    def open_span(name: str, parent: Context, attributes: Mapping[str, Any]) -> trace.Span:
        return tracer.start_span(name, context=parent, kind=trace.SpanKind.SERVER, attributes=attributes)

    return open_span


def stamp_providers(tracers: Any, loggers: Any) -> None:
    """Put our stamps on SDK providers, once each. Any: whatever providers are set, of the SDK or not; None is left."""
    if hasattr(tracers, "add_span_processor") and not _is_stamped(tracers):
        from .processors import SpanStamp

        tracers.add_span_processor(SpanStamp())
    if hasattr(loggers, "add_log_record_processor") and not _is_stamped(loggers):
        from .processors import LogStamp

        loggers.add_log_record_processor(LogStamp())
        _put_first(loggers)


_stamped: list[object] = []


def _is_stamped(provider: object) -> bool:
    if any(known is provider for known in _stamped):
        return True
    _stamped.append(provider)
    return False


def _put_first(provider: Any) -> None:
    """A processor that exports in ``on_emit`` must come after the stamp; the SDK only appends."""
    multi = getattr(provider, "_multi_log_record_processor", None)
    found = getattr(multi, "_log_record_processors", None)
    if multi is not None and isinstance(found, tuple) and found:
        multi._log_record_processors = (found[-1], *found[:-1])  # noqa: SLF001 - no public way


def _flush_others(timeout_s: float) -> list[Callable[[float], bool]]:
    """Let providers that are not ours flush, each in a thread: the SDK's ``force_flush`` ignores its timeout."""
    waits = []
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()):
        force_flush = getattr(provider, "force_flush", None)
        if force_flush is not None and not owns(provider):
            waits.append(_aside(force_flush, timeout_s))
    return waits


def _aside(force_flush: Callable[[int], object], timeout_s: float) -> Callable[[float], bool]:
    succeeded = threading.Event()

    def run() -> None:
        try:
            if force_flush(int(timeout_s * 1000)) is not False:
                succeeded.set()
        except Exception:  # noqa: BLE001 - whatever the app's provider raises
            logger().exception("a telemetry provider of the app could not be flushed")
        ended.set()

    ended = threading.Event()
    try:
        threading.Thread(target=run, name="canary-flush", daemon=True).start()
    except RuntimeError:  # the interpreter is going down
        return lambda _: False
    return lambda deadline: ended.wait(max(0.0, deadline - time.monotonic())) and succeeded.is_set()


class Pipeline:
    """What ``configure_telemetry`` set up, and the threads of the process in hand."""

    def __init__(self, settings: Settings, service_name: str | None, *, wants_handler: bool) -> None:
        from opentelemetry.sdk.resources import Resource

        from .exporters import exporter_type, preload

        given = {} if service_name is None or os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service_name}
        self._resource = Resource.create(given)
        self._settings = settings
        # Imported here, in the master of a pre-fork server: its workers share the pages.
        self._exporters = {
            signal: exporter_type(signal, wire, uncompressed=signal in settings.uncompressed)
            for signal, wire in settings.protocols.items()
        }
        for signal, make in self._exporters.items():
            preload(make, settings.protocols[signal])  # pyright: ignore[reportArgumentType]
        self._wants_handler = wants_handler
        self._home = os.getpid()
        self._was_forked = False
        self._opening = threading.Lock()
        self._collecting = threading.Lock()
        self._running: _Running | None = None
        self._is_shut = False
        self._reader: Any = None  # a Reader, of a module that imports the SDK
        self._meters: Any = None
        self.open_span: OpenSpan | None = None
        self.providers: list[object] = []

    def install(self) -> None:
        """Set the global providers that nobody has set."""
        for signal in self._settings.protocols:
            {"traces": self._install_traces, "metrics": self._install_metrics, "logs": self._install_logs}[signal]()
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        atexit.register(self._at_exit)

    def _install_traces(self) -> None:
        if configured(trace.get_tracer_provider()) is not None:
            return
        from .light import Opener, Provider
        from .processors import SpanQueue

        put = self._put("traces")
        # Not shut down at exit by the SDK, which would wait for up to 40 s.
        provider = Provider(resource=self._resource, shutdown_on_exit=False)
        self.providers.append(provider)
        stamp_providers(provider, None)
        provider.add_span_processor(SpanQueue(put, self._flush("traces")))
        self.open_span = Opener(provider, put, package_version()).open
        trace.set_tracer_provider(provider)

    def _install_logs(self) -> None:
        if configured(_logs.get_logger_provider()) is not None:
            self._wants_handler = False  # who set it up sends logs there, or does not want to
            return
        from opentelemetry.sdk._logs import LoggerProvider

        from .processors import LogQueue

        provider = LoggerProvider(resource=self._resource, shutdown_on_exit=False)
        self.providers.append(provider)
        stamp_providers(None, provider)
        provider.add_log_record_processor(LogQueue(self._put("logs"), self._flush("logs")))
        _logs.set_logger_provider(provider)
        if logging.getLogger().handlers:
            self.attach_handler()

    def _install_metrics(self) -> None:
        if configured(metrics.get_meter_provider()) is not None:
            return
        from opentelemetry.sdk.metrics import MeterProvider

        from .reader import Reader

        self._reader = Reader(self._settings.temporality, self._flush("metrics"))
        self._meters = MeterProvider([self._reader], resource=self._resource, shutdown_on_exit=False)
        self.providers.append(self._meters)
        metrics.set_meter_provider(self._meters)

    def attach_handler(self) -> None:
        """Send what ``logging`` says, once logging is set up."""
        root = logging.getLogger()
        if (
            self._wants_handler
            and "logs" in self._settings.protocols
            and not any(isinstance(handler, OtlpHandler) for handler in root.handlers)
        ):
            root.addHandler(OtlpHandler())

    def _put(self, signal: Signal) -> Callable[[object], None]:
        def put(item: object) -> None:
            running = self._running
            if running is None or running.pid != os.getpid():
                if self._is_shut or _is_uwsgi_master():
                    return
                running = self.running()
            running.batches[signal].put(item)

        return put

    def _flush(self, signal: Signal) -> Callable[[float], bool]:
        def flush_one(timeout_s: float) -> bool:
            running = self._running
            if running is None or running.pid != os.getpid():
                return True
            pump = running.pumps[signal]
            return pump.wait(pump.ask(), time.monotonic() + timeout_s)

        return flush_one

    def running(self) -> _Running:
        """The threads of this process, opened at the first call."""
        found = self._running
        if found is not None and found.pid == os.getpid():
            return found
        with self._opening:
            found = self._running
            if found is None or found.pid != os.getpid():
                if self._home != os.getpid():
                    self._leave_parent()
                found = self._running = self._open()
            return found

    def _open(self) -> _Running:
        settings = self._settings
        running = _Running()
        if self.owns_traces():
            from .light import finished

            running.add_batch("traces", self._exporters["traces"], settings.spans, finished)
        if self.owns_logs():
            running.add_batch("logs", self._exporters["logs"], settings.logs)
        if self._reader is not None:
            from .wire import Wire

            resource = _of_this_process(self._resource, self._renewed_id())
            wire = Wire(ledger(), resource, settings.temporality, package_version())
            running.add_metrics(self._exporters["metrics"], wire, self._gather, settings.interval_s)
        return running

    def _renewed_id(self) -> str | None:
        """The instance id that the SDK gave this process, so that its spans and metrics carry the same one."""
        for provider in self.providers:
            found = getattr(getattr(provider, "resource", None), "attributes", {}).get(names.INSTANCE_ID)
            is_the_parents = self._was_forked and found == self._resource.attributes.get(names.INSTANCE_ID)
            if found is not None and not is_the_parents:
                return str(found)
        return None

    def owns_traces(self) -> bool:
        """Whether the global TracerProvider is ours."""
        return trace.get_tracer_provider() in self.providers

    def owns_logs(self) -> bool:
        """Whether the global LoggerProvider is ours."""
        return _logs.get_logger_provider() in self.providers

    def _gather(self) -> Any:
        with self._collecting:
            return self._reader.gather()

    def flush(self) -> list[Callable[[float], bool]]:
        """Ask all threads to hand over; each of the answers waits until a deadline."""
        if self._is_shut or _is_uwsgi_master():
            return []
        try:
            pumps = list(self.running().pumps.values())
        except RuntimeError:  # no more threads: the interpreter is going down
            return [lambda _: False]
        return [_waiting(pump) for pump in pumps]

    def shutdown(self, timeout_s: float) -> bool:
        """Flush and end the threads; later telemetry is dropped."""
        running = self._running
        if self._is_shut or running is None or running.pid != os.getpid():
            return True
        deadline = time.monotonic() + timeout_s
        waits = self.flush()
        self._is_shut = True
        succeeded = _all(waits, deadline)
        running.close()
        return succeeded

    def _at_exit(self) -> None:
        if not self.shutdown(max(0.0, DEFAULT_TIMEOUT_S - _waited_s)):
            logger().warning("the last telemetry of this process was not taken by its collector within 5 s")

    # -- forks

    def _before_fork(self) -> None:
        # A child that is born while the SDK's collection lock is held can never collect.
        locks = [self._collecting, *(self._running.lines if self._running is not None else ())]
        deadline = time.monotonic() + _FORK_WAIT_S
        self._held = [lock for lock in locks if lock.acquire(timeout=max(0.0, deadline - time.monotonic()))]

    def _after_fork(self) -> None:
        for lock in self._held:
            lock.release()

    def _in_child(self) -> None:
        self._opening = threading.Lock()
        self._collecting = threading.Lock()
        self._leave_parent()

    def _leave_parent(self) -> None:
        """This is another process now: what was counted until here is the parent's."""
        self._home = os.getpid()
        self._was_forked = True
        self._running = None
        self._is_shut = False
        if self._reader is not None:
            from .reader import forget

            try:
                forget(self._meters, self._reader)
            except Exception:  # noqa: BLE001 - private parts of the SDK
                logger().exception("metrics of other instrumentations may count requests of before the fork again")


class _Running:
    """The threads of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pumps: dict[Signal, Pump] = {}
        self.batches: dict[Signal, Batch] = {}
        self.lines: list[threading.Lock] = []

    def add_batch(
        self, signal: Signal, make: Callable[[], Exporter], queue: Any, convert: Callable[[Any], Any] | None = None
    ) -> None:
        """Export *signal* in batches; *queue* is a ``settings.Queue``, *convert* makes of one what exporters take."""
        from .exporters import Lazy

        exporter = Lazy(make, convert)
        self.lines.append(exporter.busy)
        batch = Batch(f"canary-{signal}", exporter, capacity=queue.capacity, size=queue.size, delay_s=queue.delay_s)
        self.batches[signal] = batch
        self.pumps[signal] = batch.pump

    def add_metrics(
        self, make: Callable[[], Exporter], wire: Any, gather: Callable[[], Any], interval_s: float
    ) -> None:
        """Export metrics every *interval_s*; *wire* is a ``wire.Wire``."""
        from .exporters import Lazy

        exporter = Lazy(make)
        self.lines.append(exporter.busy)

        def work() -> bool:
            data = wire.data(gather())
            if data is None:
                return True
            is_taken = exporter(data)
            if is_taken:
                wire.confirm()
            return is_taken

        self.pumps["metrics"] = Pump("canary-metrics", exporter, work, interval_s)

    def close(self) -> None:
        """End all threads, without waiting."""
        for pump in self.pumps.values():
            pump.close()


def _is_uwsgi_master() -> bool:
    """
    Whether this is uWSGI loading the app before it forks its workers.

    It forks in C, without the hooks that keep our threads and locks out of a child's way; so none are started there,
    and what an app does while it is being loaded is not reported.
    """
    uwsgi: Any = sys.modules.get("uwsgi")  # Any: made by the server, not importable elsewhere
    return uwsgi is not None and uwsgi.worker_id() == 0 and uwsgi.mule_id() == 0 and not uwsgi.i_am_the_spooler()


def _all(waits: Sequence[Callable[[float], bool]], deadline: float) -> bool:
    """Whether all succeed; one that failed does not keep us from waiting for the next."""
    succeeded = True
    for wait in waits:
        succeeded = wait(deadline) and succeeded
    return succeeded


def _waiting(pump: Pump) -> Callable[[float], bool]:
    ticket = pump.ask()
    return lambda deadline: pump.wait(ticket, deadline)


def _of_this_process(resource: Resource, instance_id: str | None) -> Resource:
    """
    *resource* with what tells the workers of a server apart.

    Cumulative metrics of two workers under one resource overwrite each other. The SDK renews the instance id after a
    fork since 1.40 only, and never where uWSGI forks.
    """
    from opentelemetry.sdk.resources import Resource

    own: Mapping[str, str | int] = {names.PROCESS_ID: os.getpid()}
    if names.INSTANCE_ID not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        own = {**own, names.INSTANCE_ID: instance_id or str(uuid.uuid4())}
    return resource.merge(Resource(own))


_configuring: Final = threading.Lock()
_pipeline: Pipeline | None = None
# How long farewells have waited for collectors that took nothing, since this process last began to serve.
_waited_s = 0.0

__all__ = ["ConfigError", "configure_telemetry", "farewell", "flush", "owns", "shutdown", "stamp_providers", "start"]
