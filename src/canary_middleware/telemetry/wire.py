"""
The ledger as the SDK's metric data, cumulative or delta, for the exporter of our own pipeline.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from . import names
from .series import INSTRUMENTS, Distribution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.resources import Resource

    from .ledger import Ledger
    from .series import Instrument, Points
    from .settings import Temporality

# https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/: "lowmemory" leaves what is observed as it is.
_DELTA: Final[Mapping[Temporality, frozenset[str]]] = {
    "cumulative": frozenset(),
    "delta": frozenset({"counter", "histogram"}),
    "lowmemory": frozenset({"histogram"}),
}


class Wire:
    """
    Turns a ledger into metric data, again and again.

    Delta points leave from where the last *confirmed* export ended: what a collector did not take is in the next one.
    """

    def __init__(self, ledger: Ledger, resource: Resource, temporality: Temporality, version: str) -> None:
        self._ledger = ledger
        self._resource = resource
        self._delta = _DELTA[temporality]
        self._scope = InstrumentationScope(names.SCOPE, version, "")
        self._confirmed: dict[str, Points] = {}
        self._pending: dict[str, Points] = {}
        self._confirmed_ns = self._pending_ns = ledger.started_ns

    def data(self, others: MetricsData | None) -> MetricsData | None:
        """Our metrics, beside those that the SDK collected; None where there are none at all."""
        scopes: list[ScopeMetrics] = []
        for found in others.resource_metrics if others is not None else ():
            scopes.extend(found.scope_metrics)
        metrics = self._ours()
        if metrics:
            scopes.append(ScopeMetrics(self._scope, metrics, ""))
        if not scopes:
            return None
        return MetricsData([ResourceMetrics(self._resource, scopes, "")])

    def confirm(self) -> None:
        """The collector took the last ``data``."""
        self._confirmed, self._confirmed_ns = self._pending, self._pending_ns

    def _ours(self) -> list[Metric]:
        now = time.time_ns()
        snapshots = self._ledger.snapshots()
        found = []
        pending: dict[str, Points] = {}
        for instrument in INSTRUMENTS:
            points = self._ledger.points(instrument, snapshots)
            if instrument.kind in self._delta:
                pending[instrument.name] = points
                points = _since(self._confirmed.get(instrument.name, {}), points)
            if points:
                found.append(self._metric(instrument, points, now))
        self._pending, self._pending_ns = pending, now
        return found

    def _metric(self, instrument: Instrument, points: Points, now: int) -> Metric:
        is_delta = instrument.kind in self._delta
        start = self._confirmed_ns if is_delta else self._ledger.started_ns
        temporality = AggregationTemporality.DELTA if is_delta else AggregationTemporality.CUMULATIVE
        data: Any  # one of three classes without a common base
        if instrument.kind == "histogram":
            data = Histogram([_distribution(instrument, point, start, now) for point in points.values()], temporality)
        else:
            numbers = [
                NumberDataPoint(dict(attributes), start, now, cast("float", value))
                for attributes, value in points.values()
            ]
            data = (
                Gauge(numbers)
                if instrument.kind == "gauge"
                else Sum(numbers, temporality, instrument.kind == "counter")
            )
        return Metric(instrument.name, instrument.description, instrument.unit, data)


def _since(before: Points, now: Points) -> Points:
    """What came on top of *before*; points without anything new are left out."""
    found: Points = {}
    for key, (attributes, value) in now.items():
        known = before.get(key)
        if known is None:
            found[key] = (attributes, value)
            continue
        then = known[1]
        if isinstance(value, Distribution):
            fresh = value.minus(cast("Distribution", then))
            if fresh.count:
                found[key] = (attributes, fresh)
        elif value != then:
            found[key] = (attributes, value - cast("float", then))
    return found


def _distribution(instrument: Instrument, point: Any, start: int, now: int) -> HistogramDataPoint:
    attributes, value = point
    return HistogramDataPoint(
        attributes=dict(attributes),
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=value.count,
        sum=value.total,
        bucket_counts=value.buckets,
        explicit_bounds=list(instrument.bounds),
        # Optional on the wire; our cells do not keep them.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )
