"""
Collects what other instrumentations count, for our own pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, MetricsData

if TYPE_CHECKING:
    from collections.abc import Callable

    from .settings import Temporality

_DELTA: dict[Temporality, tuple[type, ...]] = {
    "cumulative": (),
    "delta": (Counter, ObservableCounter, Histogram),
    "lowmemory": (Counter, Histogram),
}


class Reader(MetricReader):
    """A reader without a thread: ``gather`` is called by who exports."""

    def __init__(self, temporality: Temporality, flush: Callable[[float], bool]) -> None:
        super().__init__(preferred_temporality=dict.fromkeys(_DELTA[temporality], AggregationTemporality.DELTA))
        self._flush = flush
        self._found: MetricsData | None = None

    def gather(self) -> MetricsData | None:
        """What there is now; None where nobody has counted anything."""
        self._found = None
        self.collect()
        return self._found

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> None:
        self._found = metrics_data

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._flush(timeout_millis / 1000)

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Nothing: who exports is shut down by name."""


def forget(provider: MeterProvider, reader: Reader) -> None:
    """
    Let *reader* start from zero, in a child process: what was counted before the fork is the parent's to report.

    The SDK keeps each reader's sums in a storage of its own. Since 1.44 a reader can be taken off and put back; before,
    the storage is replaced where it stands.
    """
    found: Any = provider
    if hasattr(found, "remove_metric_reader"):
        found.remove_metric_reader(reader)
        found.add_metric_reader(reader)
        return
    storages = found._measurement_consumer._reader_storages  # noqa: SLF001 - no public way in these versions
    storages[reader] = type(storages[reader])(
        found._sdk_config,  # noqa: SLF001
        reader._instrument_class_temporality,  # noqa: SLF001
        reader._instrument_class_aggregation,  # noqa: SLF001
    )
