"""
A plan's limits beside the figures of the moment: what a person looks at.

Whether to act on them is another question, and not answered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._core.lifecycle.rollout import Rollout
    from .._core.plan.schema import Criteria


def limits_of(rollout: Rollout, figures: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """
    ``criteria`` (of the stage in force) and ``guardrails``, each a list of metric, kind, limit, value and holds.

    Args:
        figures: what ``summarise`` says of a stretch of traffic, raw.
    Returns:
        limits and values as the plan has them: rates as fractions, times in seconds; ``value`` and ``holds`` are None
        where the figures do not tell.
    """
    plan = rollout.plan
    stage = plan.stages[rollout.stage] if 0 <= rollout.stage < len(plan.stages) else None
    criteria = plan.criteria if stage is None or stage.criteria is None else stage.criteria
    return {
        "criteria": list(_compared(criteria, figures)),
        "guardrails": list(_compared(plan.guardrails, figures)),
    }


def _compared(criteria: Criteria | None, figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if criteria is None:
        return
    for criterion in criteria.limits:
        for kind, limit in criterion.limits:
            value = _value(criterion.metric, kind, figures)
            holds = None if value is None else value >= limit if kind == "min" else value <= limit
            yield {
                "metric": criterion.metric,
                "kind": kind,
                "limit": limit,
                "value": value,
                "holds": holds,
                "action": criterion.action,
            }
    if criteria.min_requests:
        seen = figures["canary"]["request_count"]
        holds = seen >= criteria.min_requests
        yield {"metric": "requests", "kind": "min", "limit": criteria.min_requests, "value": seen, "holds": holds}


def _value(metric: str, kind: str, figures: Mapping[str, Any]) -> float | None:
    stable, canary = (_side(metric, figures[name]) for name in ("legacy", "canary"))
    if kind in ("max", "min") or canary is None or stable is None:
        return canary if kind in ("max", "min") else None
    if kind == "max_increase":
        return canary - stable
    return canary / stable if kind == "max_ratio" and stable else None


def _side(metric: str, side: Mapping[str, Any]) -> float | None:
    """The metric of one version; None without requests, and for what the counts do not hold."""
    if not side["request_count"]:
        return None
    if metric in ("p50", "p95", "p99"):
        return float(side[f"{metric}_response_time_ms"]) / 1000
    value = side.get(metric)
    return None if value is None else float(value)
