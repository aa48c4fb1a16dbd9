"""
What another plan means for a rollout under way: which keys differ, who would move, and whether it must pause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..lifecycle.rollout import Router, Variants
from .schema import Plan, RolloutPlan, to_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..lifecycle.rollout import Phase, Rollout
    from .schema import Criteria, Stage

Versions = tuple[str, frozenset[str]]

IN_PROGRESS: Final[frozenset[Phase]] = frozenset({"progressing", "holding", "paused", "baking"})
SAMPLE: Final = 10_000
"""Identities in an estimate: a share is then known to within one point, 19 times out of 20."""

# What answers say of themselves; nobody's version and no verdict depends on it. Variables are read once, at start;
# a weight in the plan is served until somebody steers, which somebody has.
_HARMLESS: Final = frozenset({"version_header", "cache_headers", "end_of_life", "env", "weight"})
_SPREADING: Final = frozenset({"duration", "criteria"})
"""Defaults of the stages: they matter as far as a stage goes by them."""
_ASSIGNING: Final = frozenset({"salt", "hash", "stable", "canary", "enabled"})
_KEYS: Final = {"canaries": "canary", "weight_ppm": "weight", "duration_s": "duration", "bake_s": "bake"}


def fingerprint(plan: RolloutPlan) -> str:
    """Sixteen hex digits that two plans share exactly when they say the same. Key functions count by their name."""
    import json
    from hashlib import blake2b

    # Without what is as ever: a release that knows a further key must not take every plan for another one.
    usual = _written(RolloutPlan(name=plan.name, salt=plan.name))
    said = {key: value for key, value in _written(plan).items() if key not in usual or usual[key] != value}
    # Not sorted: the order of several canaries decides who gets which.
    text = json.dumps([plan.name, said], separators=(",", ":"))
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _written(plan: RolloutPlan) -> dict[str, Any]:
    table: dict[str, Any] = to_mapping(Plan(rollouts=(plan,)))["rollout"][plan.name]
    return table


def versions_of(plan: RolloutPlan) -> Versions:
    """The names between which users move: the stable version's, and the canaries'."""
    return plan.stable, frozenset(name for name, _ in plan.canaries)


def declared_by(rollout: Rollout) -> str:
    """The fingerprint of the plan, as its authors wrote it, that *rollout* goes by."""
    return rollout.declared or fingerprint(rollout.plan)


def changed_keys(before: RolloutPlan, after: RolloutPlan) -> tuple[str, ...]:
    """The keys that differ, as a plan file calls them; stages one by one: ``stages[2]`` is the third."""
    found: list[str] = []
    for field in RolloutPlan._fields:
        if field == "stages":
            found.extend(f"stages[{n}]" for n in _changed_stages(before.stages, after.stages))
        elif field == "key":
            if [source.spec for source in before.key] != [source.spec for source in after.key]:
                found.append("key")
        elif getattr(before, field) != getattr(after, field):
            found.append(_KEYS.get(field, field))
    return tuple(found)


def _changed_stages(before: tuple[Stage, ...], after: tuple[Stage, ...]) -> list[int]:
    common = min(len(before), len(after))
    longest = max(len(before), len(after))
    return [n for n in range(longest) if n >= common or before[n] != after[n]]


def rebased(plan: RolloutPlan, old: RolloutPlan, new: RolloutPlan) -> RolloutPlan:
    """*plan* with what differs between *old* and *new*: what was changed at run time otherwise stays."""
    changed = {field: value for field, value in new._asdict().items() if getattr(old, field) != value}
    return plan._replace(**changed)


def must_pause(rollout: Rollout, plan: RolloutPlan) -> bool:
    """
    Whether going on by *plan* needs a person's consent.

    It does not where nothing is in progress, and where only stages after the one in force differ, or keys that neither
    decide who gets what nor what is judged: ``version_header``, ``cache_headers``, ``end_of_life``, ``env``.
    """
    if rollout.phase not in IN_PROGRESS:
        return False
    is_baking = rollout.phase == "baking"
    reached = len(plan.stages) if is_baking else rollout.stage + 1
    before, after = _spelt_out(rollout.plan)[:reached], _spelt_out(plan)[:reached]
    if before != after or (is_baking and len(rollout.plan.stages) != len(plan.stages)):
        return True
    later = _HARMLESS if is_baking else _HARMLESS | {"bake"}
    if plan.stages and rollout.plan.stages:
        later |= _SPREADING
    return any(not key.startswith("stages[") and key not in later for key in changed_keys(rollout.plan, plan))


def _spelt_out(plan: RolloutPlan) -> list[tuple[Stage, float | None, Criteria]]:
    """The stages, each with the defaults that it goes by."""
    return [
        (
            stage,
            plan.duration_s if stage.duration_s is None else stage.duration_s,
            plan.criteria if stage.criteria is None else stage.criteria,
        )
        for stage in plan.stages
    ]


def moved_percent(before: Rollout, after: Rollout, sample: int = SAMPLE) -> float:
    """How many identities get another version, in percent, by a fixed sample; rules for some requests aside."""
    old, new = Router(before, Variants(), {}), Router(after, Variants(), {})
    names = (f"identity-{n}" for n in range(sample))
    return 100 * sum(old.assign(name).version != new.assign(name).version for name in names) / sample


def evidence_of(before: Rollout, after: Rollout) -> dict[str, Any]:
    """What the audit trail keeps of the change for machines: ``keys``, ``plan``, and maybe ``moved_percent``."""
    keys = changed_keys(before.plan, after.plan)
    evidence: dict[str, Any] = {"keys": list(keys), "plan": declared_by(after)}
    if _ASSIGNING.intersection(keys):
        evidence["moved_percent"] = moved_percent(before, after)
    return evidence


def describe(before: Rollout, after: Rollout, evidence: Mapping[str, Any]) -> str:
    """The same for people, for example ``salt; 18.2 % of identities change version; paused``."""
    parts = [", ".join(evidence["keys"]) or "nothing that matters here"]
    if "moved_percent" in evidence:
        parts.append(f"{evidence['moved_percent']:.3g} % of identities change version")
    if "key" in evidence["keys"]:
        parts.append("another identity is asked for: who changes version cannot be told in advance")
    if after.phase != before.phase:
        parts.append("a new run begins at 0 %" if after.phase == "idle" else after.phase)
    return "; ".join(parts)
