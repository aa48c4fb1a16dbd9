"""
What the telemetry says: figures read from the histogram and the spans as they arrived over OTLP.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.otlp import OtlpReceiver, Span

DURATION: Final = "canary.server.request.duration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The requests of one version, at one route template or (``""``) at all. Times in seconds."""

    endpoint: str
    version: str
    requests: int
    errors: int
    p50: float
    p95: float
    p99: float


def endpoints(otlp: OtlpReceiver) -> list[tuple[str, str]]:
    """(method, route template) of all that was measured."""
    found = {(p.attributes["http.request.method"], p.attributes.get("http.route", "")) for p in otlp.metrics(DURATION)}
    return sorted(found, key=lambda one: (one[1], one[0]))


def line(otlp: OtlpReceiver, version: str, method: str = "", route: str = "") -> Line:
    """One line of the table; without *method* and *route* that of all endpoints."""
    where: dict[str, Any] = {"canary_version": version}
    if method:
        where |= {"http_request_method": method, "http_route": route or None}
    requests = otlp.histogram_count(DURATION, **where)
    buckets = otlp.histogram_buckets(DURATION, **where)
    return Line(
        endpoint=route,
        version=version,
        requests=requests,
        errors=requests - otlp.histogram_count(DURATION, **where, error_type=None),
        p50=quantile(buckets, 0.50),
        p95=quantile(buckets, 0.95),
        p99=quantile(buckets, 0.99),
    )


def quantile(buckets: Mapping[float, int], q: float) -> float:
    """
    The *q*-quantile (0 … 1) of a histogram, interpolated in its bucket as Prometheus' histogram_quantile does.

    Args:
        buckets: upper bound → measurements in that bucket alone; the last bound is infinity.
    Returns:
        0.0 where nothing was measured; the last finite bound where the quantile lies beyond it.
    """
    rank = q * sum(buckets.values())
    if not rank:
        return 0.0
    below = 0
    for lower, upper in pairwise((0.0, *sorted(buckets))):
        if below + buckets[upper] >= rank:
            return lower if upper == float("inf") else lower + (upper - lower) * (rank - below) / buckets[upper]
        below += buckets[upper]
    return 0.0


def server_spans(otlp: OtlpReceiver) -> list[Span]:
    """The spans of whole requests."""
    return otlp.spans(kind="SERVER")


def versions(spans: list[Span]) -> Counter[str]:
    """How many of *spans* carry which version; "" where one carries none."""
    return Counter(span.attributes.get("canary.version", "") for span in spans)


def rescued(otlp: OtlpReceiver) -> list[Span]:
    """The server spans of requests that v2 failed and v1 answered."""
    return [span for span in server_spans(otlp) if any(event.name == "canary.fallback" for event in span.events)]
