"""
How a rollout may change: pure functions Rollout → Rollout, each one revision further.

Automation may only advance one stage, hold, or roll back. Lowering a weight is always allowed. Nothing but ``retry``
leaves a rollback, and nothing but ``unlock`` the emergency latch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ...errors import TransitionRefused
from ..assignment.endpoints import validate_template
from ..plan.changes import IN_PROGRESS, declared_by, fingerprint, must_pause, versions_of

if TYPE_CHECKING:
    from ..plan.schema import RolloutPlan
    from .rollout import Phase, Rollout

# Enough for a year of weekly plans; a fingerprint that was forgotten is taken for a new plan.
_REMEMBERED: Final = 64


def _next(rollout: Rollout, **changes: Any) -> Rollout:  # Any: the fields of Rollout, checked by its own tests
    changed = rollout._replace(revision=rollout.revision + 1, **changes)
    # An approval does not outlive the stage it was for: who is moved below it needs another one there.
    return changed if changed.approved <= changed.stage else changed._replace(approved=changed.stage)


def _refuse(rollout: Rollout, verb: str, way_out: str) -> TransitionRefused:
    reason = f" ({rollout.phase_reason})" if rollout.phase_reason else ""
    return TransitionRefused(f"cannot {verb} {rollout.name!r}: it is {rollout.phase}{reason}. {way_out}")


def _require_unlatched(rollout: Rollout, verb: str) -> None:
    if rollout.phase == "locked":
        raise _refuse(rollout, verb, "Lift the emergency latch first: `canary emergency off`.")
    if rollout.phase == "rolled_back":
        raise _refuse(rollout, verb, "Once the cause is mended: `canary retry`.")


def start(rollout: Rollout) -> Rollout:
    """Enter the first stage."""
    _require_unlatched(rollout, "start")
    if rollout.phase != "idle":
        raise _refuse(rollout, "start", "It has been started already.")
    return _enter(rollout, 0)


def _enter(rollout: Rollout, stage: int) -> Rollout:
    stages = rollout.plan.stages
    if not stages:
        raise _refuse(rollout, "advance", "Its plan has no stages; set a weight instead.")
    return _next(
        rollout,
        phase="progressing",
        phase_reason="",
        stage=stage,
        weight_ppm=stages[stage].weight_ppm,
        resume_to=None,
        # An approval is for the stage as it went this time.
        approved=min(rollout.approved, stage - 1),
    )


def advance(rollout: Rollout) -> Rollout:
    """Enter the next stage; after the last one bake, and after the bake it is completed."""
    _require_unlatched(rollout, "advance")
    if rollout.phase == "baking":
        return complete(rollout)
    if rollout.phase == "completed":
        raise _refuse(rollout, "advance", "Everybody has the canary.")
    following = rollout.stage + 1
    if rollout.plan.stages and following >= len(rollout.plan.stages):
        return _next(rollout, phase="baking", phase_reason="", resume_to=None)
    return _enter(rollout, following)


def approve(rollout: Rollout) -> Rollout:
    """A person lets the stage in force end, once everything else that its plan asks for holds."""
    _require_unlatched(rollout, "approve")
    stages = rollout.plan.stages
    if not 0 <= rollout.stage < len(stages) or not stages[rollout.stage].approve:
        raise _refuse(rollout, "approve", "The stage in force asks for no approval; `canary next` enters the next one.")
    if rollout.approved >= rollout.stage:
        raise _refuse(rollout, "approve", f"Stage {rollout.stage + 1} has been approved already.")
    if rollout.phase == "holding" and rollout.phase_reason == "approval":
        rollout = rollout._replace(phase="progressing", phase_reason="", resume_to=None)
    return _next(rollout, approved=rollout.stage)


def go_to_stage(rollout: Rollout, stage: int) -> Rollout:
    """Enter stage *stage* (0 is the first): a human's move, in either direction."""
    _require_unlatched(rollout, "change the stage of")
    if not 0 <= stage < len(rollout.plan.stages):
        raise _refuse(rollout, f"enter stage {stage + 1} of", f"Its plan has {len(rollout.plan.stages)} stages.")
    return _enter(rollout, stage)


def pause(rollout: Rollout, why: str = "manual") -> Rollout:
    """Stop where it is until a human resumes it."""
    _require_unlatched(rollout, "pause")
    if rollout.phase in ("idle", "completed"):
        raise _refuse(rollout, "pause", "Nothing is moving.")
    if rollout.phase == "paused":
        return _next(rollout, phase_reason=why)
    return _next(rollout, phase="paused", phase_reason=why, resume_to=_moving(rollout))


def _moving(rollout: Rollout) -> Any:  # Any: Phase, narrowed by the caller's field
    return "baking" if rollout.phase == "baking" else "progressing"


def resume(rollout: Rollout) -> Rollout:
    """Go on after a pause or a hold."""
    _require_unlatched(rollout, "resume")
    if rollout.phase not in ("paused", "holding"):
        raise _refuse(rollout, "resume", "It is neither paused nor holding.")
    if not rollout.plan.stages:
        raise _refuse(rollout, "resume", "Its plan has no stages; its weight stays what was set by hand.")
    return _next(
        rollout, phase=rollout.resume_to or "progressing", phase_reason="", stage=max(rollout.stage, 0), resume_to=None
    )


def hold(rollout: Rollout, why: str) -> Rollout:
    """Wait, by automation, until *why* is over; the weight stays."""
    _require_unlatched(rollout, "hold")
    if rollout.phase not in ("progressing", "holding"):
        raise _refuse(rollout, "hold", "Only a rollout in progress can hold.")
    return _next(rollout, phase="holding", phase_reason=why, resume_to="progressing")


def retreat(rollout: Rollout, why: str) -> Rollout:
    """Hold, by automation, with no more than the first stage's weight, until *why* is over."""
    held = hold(rollout, why)
    first = rollout.plan.stages[0].weight_ppm if rollout.plan.stages else rollout.weight_ppm
    stage = min(rollout.stage, 0)
    return held._replace(weight_ppm=min(rollout.weight_ppm, first), stage=stage, approved=min(rollout.approved, stage))


def set_weight(rollout: Rollout, weight_ppm: int) -> Rollout:
    """A weight set by hand, 0 … 1 000 000 ppm: the plan pauses there. Lowering is allowed in every phase."""
    if not 0 <= weight_ppm <= 1_000_000:
        raise TransitionRefused(f"weight {weight_ppm} ppm is outside 0 … 1 000 000")
    if rollout.is_latched:
        if weight_ppm > 0:
            _require_unlatched(rollout, "set the weight of")
        return _next(rollout, weight_ppm=0)
    stages = rollout.plan.stages
    # The last stage that the weight has reached, so that going on after a resume never lowers or repeats.
    stage = sum(stage.weight_ppm <= weight_ppm for stage in stages) - 1 if stages else rollout.stage
    return _next(
        rollout,
        phase="paused",
        phase_reason="manual",
        weight_ppm=weight_ppm,
        stage=stage,
        resume_to=_moving(rollout),
    )


def roll_back(rollout: Rollout, trigger: str) -> Rollout:
    """
    Weight 0 now, latched until a human retries. Allowed from anywhere; the emergency latch stays on.

    What rolled it back first stays the reason: whoever does so once more has found nothing out.
    """
    if rollout.phase in ("locked", "rolled_back"):
        return _next(rollout, weight_ppm=0)
    return _next(rollout, phase="rolled_back", phase_reason=trigger, weight_ppm=0, resume_to=None)


def retry(rollout: Rollout) -> Rollout:
    """Begin anew after a rollback, at the first stage: a human's decision."""
    if rollout.phase == "locked":
        raise _refuse(rollout, "retry", "Lift the emergency latch first: canary emergency off.")
    if rollout.phase != "rolled_back":
        raise _refuse(rollout, "retry", "Only a rollout that was rolled back can be retried.")
    if not rollout.plan.stages:
        return _next(rollout, phase="idle", phase_reason="", stage=-1, weight_ppm=0)
    return _enter(rollout._replace(phase="idle"), 0)


def complete(rollout: Rollout) -> Rollout:
    """Everybody has the canary and the bake is over."""
    _require_unlatched(rollout, "complete")
    if rollout.phase != "baking":
        raise _refuse(rollout, "complete", "It must bake at its last stage first.")
    return _next(rollout, phase="completed", phase_reason="", resume_to=None)


def lock(rollout: Rollout) -> Rollout:
    """The emergency latch: stable for everybody, overrides off, across restarts."""
    return _next(rollout, phase="locked", phase_reason="emergency", weight_ppm=0, resume_to=None)


def unlock(rollout: Rollout) -> Rollout:
    """Lift the emergency latch. The rollout stays rolled back: raising the weight again is a decision of its own."""
    if rollout.phase != "locked":
        raise _refuse(rollout, "lift the latch of", "It is not locked.")
    return _next(rollout, phase="rolled_back", phase_reason="emergency")


def add_endpoint(rollout: Rollout, template: str) -> Rollout:
    """Cover one more endpoint. Raises ConfigError where *template* is none."""
    validate_template(template)
    endpoints = rollout.plan.endpoints
    if not endpoints:
        raise TransitionRefused(f"{rollout.name!r} covers every path already: name its endpoints in the plan first")
    if template in endpoints:
        raise TransitionRefused(f"{rollout.name!r} covers {template!r} already")
    return _next(rollout, plan=rollout.plan._replace(endpoints=(*endpoints, template)))


def remove_endpoint(rollout: Rollout, template: str) -> Rollout:
    """Cover one endpoint less; the last one cannot go, because none means every path."""
    endpoints = rollout.plan.endpoints
    if template not in endpoints:
        covered = ", ".join(endpoints) or "every path"
        raise TransitionRefused(f"{rollout.name!r} does not cover {template!r}: it covers {covered}")
    if len(endpoints) == 1:
        raise TransitionRefused(f"{template!r} is the last endpoint of {rollout.name!r}: roll it back instead")
    return _next(rollout, plan=rollout.plan._replace(endpoints=tuple(e for e in endpoints if e != template)))


def change_plan(rollout: Rollout, plan: RolloutPlan, declared: str = "") -> Rollout:
    """
    Go by another plan from now on.

    A rollout in progress pauses where it stands (``config_changed``), unless ``plan_change.must_pause`` sees no need;
    a latch stays, and no weight changes. With other versions a completed rollout begins anew, at 0 %.

    Args:
        declared: fingerprint of the plan as its authors wrote it; that of *plan* where it is empty.
    Raises:
        TransitionRefused: other versions, while users are on the present ones.
    """
    declared = declared or fingerprint(plan)
    past = [old for old in (declared_by(rollout), *rollout.superseded) if old != declared]
    changed = _next(
        rollout,
        plan=plan,
        declared=declared,
        superseded=tuple(dict.fromkeys(past))[:_REMEMBERED],
    )
    if rollout.phase == "idle":
        # What the plan says is served until somebody steers.
        is_steered = rollout.weight_ppm != rollout.plan.weight_ppm
        return changed if is_steered else changed._replace(weight_ppm=plan.weight_ppm)
    if versions_of(plan) != versions_of(rollout.plan):
        return _with_other_versions(rollout, changed)
    if rollout.phase not in IN_PROGRESS:
        return _clamped(changed)
    return _placed(rollout, changed, is_paused=must_pause(rollout, plan))


def _with_other_versions(before: Rollout, after: Rollout) -> Rollout:
    """Nobody may find themselves on another version because a file was edited."""
    stable, canaries = versions_of(before.plan)
    if before.phase in IN_PROGRESS:
        raise _refuse(before, "change the versions of", "Roll it back or let it complete first.")
    if before.phase == "completed":
        if after.plan.stable not in canaries:
            has = " or ".join(sorted(canaries))
            raise _refuse(before, "change the versions of", f"Everybody has {has}: make that the stable version.")
        return after._replace(phase="idle", phase_reason="", weight_ppm=0, stage=-1, resume_to=None, approved=-1)
    if after.plan.stable != stable:
        raise _refuse(
            before, "change the stable version of", f"Everybody has {stable}; a new name makes a new rollout."
        )
    return _clamped(after)


def _clamped(rollout: Rollout) -> Rollout:
    return rollout._replace(stage=min(rollout.stage, len(rollout.plan.stages) - 1))


def _placed(before: Rollout, after: Rollout, *, is_paused: bool) -> Rollout:
    """*after*, at the stage of its own plan that the weight has reached."""
    stages = after.plan.stages
    stage = before.stage
    if stages[: stage + 1] != before.plan.stages[: stage + 1] or _is_by_hand(before):
        stage = sum(s.weight_ppm <= before.weight_ppm for s in stages) - 1
    after = after._replace(stage=stage, approved=min(before.approved, _unchanged(before, after) - 1))
    if not is_paused:
        return after
    is_baking = _moving(before) == "baking" or before.resume_to == "baking"
    resume_to: Phase = "baking" if is_baking and stage == len(stages) - 1 else "progressing"
    return after._replace(phase="paused", phase_reason="config_changed", resume_to=resume_to)


def _is_by_hand(rollout: Rollout) -> bool:
    stages = rollout.plan.stages
    return not 0 <= rollout.stage < len(stages) or stages[rollout.stage].weight_ppm != rollout.weight_ppm


def _unchanged(before: Rollout, after: Rollout) -> int:
    """How many stages from the first on are the same: an approval was given to a stage as it was."""
    pairs = zip(before.plan.stages, after.plan.stages, strict=False)
    return next((n for n, (old, new) in enumerate(pairs) if old != new), len(after.plan.stages))


def step_down(rollout: Rollout) -> Rollout:
    """One stage down, by hand: 100 → 50 → 10 → 0. Below the first stage it is a rollback."""
    _require_unlatched(rollout, "step down")
    below = [n for n, stage in enumerate(rollout.plan.stages) if stage.weight_ppm < rollout.weight_ppm]
    if not below:
        return roll_back(rollout, "stepped down from the first stage")
    stage = below[-1]
    return _next(
        rollout,
        phase="paused",
        phase_reason="stepped down",
        stage=stage,
        weight_ppm=rollout.plan.stages[stage].weight_ppm,
        resume_to="progressing",
    )
