"""
Counts as people read them: both sides of a rollout and how they compare.

The names are those of the metrics endpoint: ``legacy`` is the stable version, ``canary`` all canaries together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core.tallies import UNAVAILABLE, Cell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.plan.schema import RolloutPlan
    from .._core.tallies import Series


class _Side:
    """One version's requests, added up."""

    def __init__(self) -> None:
        self.cell = Cell()
        self.errors = 0
        self.unavailable = 0
        self.aborted = 0

    def add(self, series: Series, cell: Cell) -> None:
        if series.aborted:
            self.aborted += cell.count
            return
        self.cell.add(cell)
        if series.error_type is not None:
            self.errors += cell.count
            # An exception, or an answer that says so: 1 − success rate would call every application error an outage.
            if series.status in UNAVAILABLE or series.error_type != str(series.status):
                self.unavailable += cell.count

    def numbers(self, elapsed_s: float) -> dict[str, Any]:
        cell = self.cell
        n = cell.count
        return {
            "request_count": n,
            "error_count": self.errors,
            "error_rate": self.errors / n if n else 0.0,
            "avg_response_time_ms": cell.total_s / n * 1000 if n else 0.0,
            "p50_response_time_ms": cell.quantile_s(0.50) * 1000,
            "p95_response_time_ms": cell.quantile_s(0.95) * 1000,
            "p99_response_time_ms": cell.quantile_s(0.99) * 1000,
            "availability": 1 - self.unavailable / n if n else 1.0,
            "throughput_rps": n / elapsed_s if elapsed_s > 0 else 0.0,
            "aborted_count": self.aborted,
        }


def summarise(
    series: Mapping[Series, Cell], plan: RolloutPlan, elapsed_s: float, *, raw: bool = True
) -> dict[str, Any]:
    """
    Both sides of *plan*'s rollout and their comparison.

    Args:
        elapsed_s: seconds in which the requests came, for the throughput.
        raw: plain numbers, rates as fractions; False gives the endpoint's text (``"0.05%"``, ``"250.00"``).
    Returns:
        ``legacy``, ``canary`` and ``comparison``; with *raw* also ``versions``: each version by its own name.
    """
    ours = {s: cell for s, cell in series.items() if s.variant.rollout == plan.name}
    return _compare(ours, plan, elapsed_s, raw=raw)


def by_endpoint(
    series: Mapping[Series, Cell], plan: RolloutPlan, elapsed_s: float, *, raw: bool = True
) -> dict[str, dict[str, Any]]:
    """Route template → what ``summarise`` says of it; requests without a route stand under ``""``."""
    routes: dict[str, dict[Series, Cell]] = {}
    for s, cell in series.items():
        if s.variant.rollout == plan.name:
            routes.setdefault(s.route or "", {})[s] = cell
    return {route: _compare(found, plan, elapsed_s, raw=raw) for route, found in sorted(routes.items())}


def _compare(series: Mapping[Series, Cell], plan: RolloutPlan, elapsed_s: float, *, raw: bool) -> dict[str, Any]:
    legacy, canary = _Side(), _Side()
    versions: dict[str, _Side] = {name: _Side() for name in (plan.stable, *(name for name, _ in plan.canaries))}
    for s, cell in series.items():
        (legacy if s.variant.role == "stable" else canary).add(s, cell)
        versions.setdefault(s.variant.version, _Side()).add(s, cell)
    old, new = legacy.numbers(elapsed_s), canary.numbers(elapsed_s)
    comparison = _comparison(old, new)
    if raw:
        return {
            "legacy": {"version": "legacy", **old},
            "canary": {"version": "canary", **new},
            "comparison": comparison,
            "versions": {name: {"version": name, **side.numbers(elapsed_s)} for name, side in versions.items()},
        }
    return {
        "legacy": {"version": "legacy", **_as_text(old)},
        "canary": {"version": "canary", **_as_text(new)},
        "comparison": _comparison_as_text(comparison),
    }


def _comparison(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    total = old["request_count"] + new["request_count"]
    mean = old["avg_response_time_ms"]
    return {
        "error_rate_difference": new["error_rate"] - old["error_rate"],
        "response_time_improvement": (
            (mean - new["avg_response_time_ms"]) / mean if mean and new["request_count"] else 0.0
        ),
        "canary_p95_response_time": new["p95_response_time_ms"],
        "legacy_p95_response_time": old["p95_response_time_ms"],
        "traffic_split": {
            "legacy_requests": old["request_count"],
            "canary_requests": new["request_count"],
            "legacy_percentage": old["request_count"] / total if total else 0.0,
            "canary_percentage": new["request_count"] / total if total else 0.0,
        },
    }


def _as_text(side: Mapping[str, Any]) -> dict[str, Any]:
    times = ("avg_response_time_ms", "p95_response_time_ms", "p99_response_time_ms")
    return {
        "request_count": side["request_count"],
        "error_count": side["error_count"],
        "error_rate": f"{side['error_rate']:.2%}",
        **{name: f"{side[name]:.2f}" for name in times},
    }


def _comparison_as_text(comparison: Mapping[str, Any]) -> dict[str, Any]:
    split = comparison["traffic_split"]
    return {
        "error_rate_difference": f"{comparison['error_rate_difference']:+.2%}",
        "response_time_improvement": f"{comparison['response_time_improvement']:+.2%}",
        "canary_p95_response_time": f"{comparison['canary_p95_response_time']:.2f}ms",
        "legacy_p95_response_time": f"{comparison['legacy_p95_response_time']:.2f}ms",
        "traffic_split": {
            **{name: split[name] for name in ("legacy_requests", "canary_requests")},
            **{name: f"{split[name]:.1%}" for name in ("legacy_percentage", "canary_percentage")},
        },
    }
