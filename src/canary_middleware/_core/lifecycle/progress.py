"""
What automation does next with a rollout, and the clock of the stage that it is in.

Time, evidence and calendar are handed in. Automation only ever advances one stage, waits, completes a bake, or rolls
back; what a person has paused, set by hand or latched it leaves alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..plan.schema import Stage
    from .records import Event
    from .rollout import Rollout

INTERFERENCE: Final = "interference"
"""How a finding begins that says that stable itself has become slower."""
GUARDS_HOLD_S: Final = 150.0
"""How long a hold of a guardrail's is left alone: it rolls back after two minutes, or it is over."""

Verdict = Literal["pass", "fail", "inconclusive", "error"]

_MOVING: Final = frozenset({"progressing", "holding", "baking"})
# Also where the stage's number stays: begun anew is begun anew.
_ENTRIES: Final = frozenset({"start", "retry", "stage", "promote", "advance"})


class Finding(NamedTuple):
    """
    What the judge says of the stage so far: its verdict, why in a sentence, and what a machine can store.

    Attributes:
        action: what a verdict of fail asks for.
    """

    verdict: Verdict
    reason: str = ""
    evidence: Mapping[str, Any] = {}
    action: Literal["rollback", "pause"] = "rollback"


class Facts(NamedTuple):
    """
    What the next move depends on, besides the rollout itself.

    Attributes:
        in_stage_s: seconds of ``stage_clock``.
        is_open: whether the plan's calendar allows an advance now.
        is_pinned: whether the environment of any live worker pins the weight.
        held_s: seconds that it has been holding for the reason it holds for now.
    """

    finding: Finding
    in_stage_s: float
    is_open: bool = True
    is_pinned: bool = False
    held_s: float = 0.0


class Move(NamedTuple):
    """
    One transition.

    Attributes:
        verb: the name of the function in ``transitions``.
        reason: why, in a sentence, for the audit trail.
        evidence: the same for machines.
        why: in a word or two, what a hold is for: it stays the same while the figures change.
    """

    verb: Literal["advance", "hold", "retreat", "resume", "complete", "roll_back", "pause"]
    reason: str
    evidence: Mapping[str, Any] = {}
    why: str = ""


def next_move(rollout: Rollout, facts: Facts) -> Move | None:
    """The one transition that is due, or None where everything may stay as it is."""
    finding = facts.finding
    if finding.verdict == "fail" and (rollout.phase in _MOVING or rollout.phase == "paused"):
        return _failed(rollout, finding)
    if rollout.phase not in _MOVING:
        return None
    if rollout.phase == "baking":
        return Move("complete", "the bake is over", finding.evidence) if _has_baked(rollout, facts) else None
    if _has_recovered(rollout, finding):
        reason = f"{rollout.plan.stable} recovered when fewer users had the canary: it was the canary that slowed it"
        return Move("roll_back", reason, finding.evidence)
    obstacle = _obstacle(rollout, facts)
    if obstacle is not None:
        return _held(rollout, finding, obstacle)
    if facts.in_stage_s >= _duration_s(rollout):
        return Move("advance", finding.reason or "all that the stage asks for holds", finding.evidence)
    return Move("resume", f"{rollout.phase_reason} is over") if rollout.phase == "holding" else None


def _failed(rollout: Rollout, finding: Finding) -> Move | None:
    if finding.action == "rollback":
        return Move("roll_back", finding.reason, finding.evidence)
    return None if rollout.phase == "paused" else Move("pause", finding.reason, finding.evidence, "criterion")


def _has_recovered(rollout: Rollout, finding: Finding) -> bool:
    """Whether lowering the weight has made stable as fast as it was."""
    return rollout.phase == "holding" and rollout.phase_reason == INTERFERENCE and _word(finding) != INTERFERENCE


def _word(finding: Finding) -> str:
    """What a hold is called: the finding's reason up to its colon, without the figures behind it."""
    return finding.reason.partition(":")[0] or "error" if finding.verdict == "error" else ""


def _held(rollout: Rollout, finding: Finding, obstacle: str) -> Move | None:
    if rollout.phase == "holding" and rollout.phase_reason.partition(" at the first")[0] == obstacle:
        return None
    reason = finding.reason if finding.verdict in ("error", "inconclusive") and finding.reason else obstacle
    if obstacle != INTERFERENCE:
        return Move("hold", reason, finding.evidence, obstacle)
    if rollout.stage > 0:
        return Move("retreat", reason, finding.evidence, obstacle)
    # There is no lower weight to try: that it is over will say nothing of the canary.
    return Move("hold", reason, finding.evidence, f"{obstacle} at the first stage")


def _obstacle(rollout: Rollout, facts: Facts) -> str | None:
    """What keeps the stage from ending or going on, in a word or two; None where nothing does."""
    if facts.finding.verdict == "error":
        return _word(facts.finding)
    if _is_guards_hold(rollout) and facts.held_s < GUARDS_HOLD_S:
        return rollout.phase_reason.partition(" at the first")[0]
    if facts.is_pinned:
        return "pinned"
    if facts.in_stage_s < _duration_s(rollout):
        return None
    stage = _stage(rollout)
    if stage is not None and stage.approve and rollout.approved < rollout.stage:
        return "approval"
    if not facts.is_open:
        return "schedule"
    return "inconclusive" if facts.finding.verdict == "inconclusive" else None


def _is_guards_hold(rollout: Rollout) -> bool:
    """Whether a guardrail holds it, which decides by itself within two minutes."""
    return rollout.phase == "holding" and rollout.phase_reason.startswith("shared incident")


def _stage(rollout: Rollout) -> Stage | None:
    stages = rollout.plan.stages
    return stages[rollout.stage] if 0 <= rollout.stage < len(stages) else None


def _duration_s(rollout: Rollout) -> float:
    """Seconds that the stage lasts at least; a stage without a duration ends by a person's hand only."""
    stage = _stage(rollout)
    duration_s = rollout.plan.duration_s if stage is None or stage.duration_s is None else stage.duration_s
    return float("inf") if duration_s is None else duration_s


def _has_baked(rollout: Rollout, facts: Facts) -> bool:
    stage = _stage(rollout)
    bake_s = rollout.plan.bake_s if stage is None or stage.bake_s is None else stage.bake_s
    return facts.in_stage_s >= (bake_s or 0.0) and facts.finding.verdict != "error"


def stage_began(events: Sequence[Event]) -> float:
    """When the present stage or bake was entered, in Unix seconds; 0 where *events* (newest first) do not tell."""
    return next((event.at_s for event in events if _enters(event)), 0.0)


def held_since(events: Sequence[Event]) -> float | None:
    """When the present hold began, in Unix seconds; None where the newest of *events* that changed it is no hold."""
    since = None
    for event in events:
        if event.after.get("phase") != "holding":
            break
        since = event.at_s
    return since


def stage_clock(events: Sequence[Event], now_s: float) -> float:
    """
    Seconds that a rollout has moved in its present stage or bake; pauses, and what stood before them by hand, are left
    out.

    Args:
        events: its audit trail, newest first, as far back as the stage's beginning.
        now_s: Unix seconds by the clock of the events.
    Returns:
        ≥ 0; a clock that jumped back adds nothing.
    """
    total, until = 0.0, now_s
    for event in events:
        if event.after.get("phase") in _MOVING:
            total += max(0.0, until - event.at_s)
        until = min(until, event.at_s)
        if _enters(event):
            break
    return total


def _enters(event: Event) -> bool:
    before, after = event.before, event.after
    began_to_bake = after.get("phase") == "baking" != before.get("phase")
    return event.verb in _ENTRIES or before.get("stage") != after.get("stage") or began_to_bake
