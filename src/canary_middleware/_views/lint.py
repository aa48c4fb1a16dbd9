"""
What is allowed in a plan, and still worth a second look before a rollout starts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from .._core.assignment.identity import Anonymous
from .._core.plan.fields import percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._core.plan.schema import Plan, RolloutPlan

JUMP_PPM: Final = 500_000
"""A step upwards of so much is asked about, in a plan and at the command line: plans climb by 20 to 40 points."""


def lint(plan: Plan, environ: Mapping[str, str]) -> list[str]:
    """One sentence for each thing that a careful reader would ask about; empty where there is none."""
    found = [f"{rollout.name}: {remark}" for rollout in plan.rollouts for remark in _remarks(rollout, plan, environ)]
    if plan.store is None and "CANARY_STORE" not in environ:
        found.append("no `store`: every process would steer for itself, and the command line could reach none of them")
    return found


def _remarks(rollout: RolloutPlan, plan: Plan, environ: Mapping[str, str]) -> Iterator[str]:
    if not rollout.key:
        yield "no `key`: every request is without identity, so everybody gets the stable version"
    if any(isinstance(source, Anonymous) for source in rollout.key) and not _has_secret(plan, environ):
        yield (
            "`anonymous` without a secret: visitors could choose their version by choosing their id; set "
            f"{plan.anonymous.secret_env or 'anonymous.secret_env'}"
        )
    if not rollout.guardrails.limits:
        yield "no `guardrails`: nothing stops a broken version before a person does"
    if not rollout.criteria.limits and not any(stage.criteria for stage in rollout.stages):
        yield "no `criteria`: nothing says when a stage has gone well"
    elif not rollout.criteria.min_requests:
        yield "no `criteria.min_requests`: a quiet night would count as evidence"
    if rollout.fallback == "never":
        yield "`fallback` is never: users see every failure of the new version"
    if not rollout.enforce:
        yield "`enforce` is false: guardrails and criteria only report"
    if not rollout.enabled:
        yield "`enabled` is false: nobody gets the new version"
    yield from _steps(rollout)
    overrides = rollout.overrides
    if overrides.token_env and overrides.token_env not in environ:
        yield f"{overrides.token_env} is not set here: neither testers nor `canary test` can ask for a version"


def _steps(rollout: RolloutPlan) -> Iterator[str]:
    weights = [0, *(stage.weight_ppm for stage in rollout.stages)]
    for before, after in pairwise(weights):
        if after - before >= JUMP_PPM:
            yield f"the step from {percent(before):g} % to {percent(after):g} % moves half of the users or more at once"
    if rollout.stages and weights[-1] < 1_000_000:
        yield f"the last stage is {percent(weights[-1]):g} %: the rollout never reaches everybody"


def _has_secret(plan: Plan, environ: Mapping[str, str]) -> bool:
    return bool(plan.anonymous.secret_env and environ.get(plan.anonymous.secret_env))
