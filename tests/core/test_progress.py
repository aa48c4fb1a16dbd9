"""What automation does next: one stage at a time, and nothing that a person has not left to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.progress import (
    Facts,
    Finding,
    Move,
    held_since,
    next_move,
    stage_began,
    stage_clock,
)
from canary_middleware._core.lifecycle.records import Event

from .test_rollout import rollout

if TYPE_CHECKING:
    from canary_middleware._core.lifecycle.rollout import Rollout

STAGES = [10, {"weight": 50, "approve": True}, {"weight": 100, "duration": "1h", "bake": "2h"}]
PASS = Finding("pass", "as good as v1")


def at(stage: int = 0, phase: str = "progressing", **state: Any) -> Rollout:
    return rollout(10, state={"phase": phase, "stage": stage, **state}, stages=STAGES, duration="30m", bake="1h")


def due(current: Rollout, in_stage_s: float = 1800, finding: Finding = PASS, **facts: Any) -> str | None:
    """``verb`` or ``hold: reason``."""
    move = next_move(current, Facts(finding, in_stage_s, **facts))
    if move is None:
        return None
    return f"hold: {move.why}" if move.verb == "hold" else move.verb


@pytest.mark.parametrize("phase", ["idle", "paused", "completed", "rolled_back", "locked"])
@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive", "error"])
def test_what_a_person_has_stopped_or_not_begun_is_left_alone(phase: str, verdict: Any) -> None:
    found = due(at(phase=phase), finding=Finding(verdict))

    assert found == ("roll_back" if (phase, verdict) == ("paused", "fail") else None)


def test_a_failure_that_asks_for_a_pause_pauses_once() -> None:
    failure = Finding("fail", "p95 max 200ms does not hold", action="pause")

    assert next_move(at(), Facts(failure, 0.0)) == Move("pause", failure.reason, {}, "criterion")
    assert next_move(at(phase="paused"), Facts(failure, 0.0)) is None


def test_a_hold_is_named_by_what_stays_the_same_and_told_in_full() -> None:
    mismatch = Finding("error", "sample-ratio mismatch: v2 got 120 of 1,000", {"e": 2000})
    move = next_move(at(), Facts(mismatch, 0.0))

    assert move == Move("hold", mismatch.reason, {"e": 2000}, "sample-ratio mismatch")
    later = mismatch._replace(reason="sample-ratio mismatch: v2 got 130 of 1,100")
    assert next_move(at(phase="holding", phase_reason="sample-ratio mismatch"), Facts(later, 9.0)) is None


def test_a_hold_of_a_guardrails_is_left_to_it_for_two_minutes_and_a_half() -> None:
    held = at(phase="holding", phase_reason="shared incident: v1 breaks the same limit now")

    assert due(held, 9999, held_s=149.0) is None
    assert due(held, 60, held_s=150.0) == "resume"


SLOWED = Finding("error", "interference: v1 itself is half as slow again")


def test_interference_lowers_the_weight_and_a_stable_that_recovers_condemns_the_canary() -> None:
    assert next_move(at(1), Facts(SLOWED, 9.0)) == Move("retreat", SLOWED.reason, {}, "interference")
    lowered = at(0, phase="holding", phase_reason="interference")
    assert due(lowered, 99, SLOWED) is None
    recovered = next_move(lowered, Facts(PASS, 99))
    assert recovered is not None
    assert recovered.verb == "roll_back"
    assert "recovered" in recovered.reason


def test_interference_at_the_first_stage_only_holds_and_its_end_proves_nothing() -> None:
    assert due(at(0), 9, SLOWED) == "hold: interference at the first stage"
    held = at(0, phase="holding", phase_reason="interference at the first stage")
    assert due(held, 99, SLOWED) is None
    assert due(held, 99, PASS) == "resume"


@pytest.mark.parametrize("phase", ["progressing", "holding", "baking"])
def test_a_failure_rolls_back_at_once_and_says_why(phase: str) -> None:
    move = next_move(at(phase=phase), Facts(Finding("fail", "errors: 4 % against 0.1 %", {"e": 130}), 0.0))

    assert move == Move("roll_back", "errors: 4 % against 0.1 %", {"e": 130})


def test_a_stage_ends_when_its_time_is_over_and_everything_holds() -> None:
    assert due(at(), 1799) is None
    assert due(at(), 1800) == "advance"
    assert due(at(phase="holding", phase_reason="inconclusive"), 1800) == "advance"


def test_it_waits_for_evidence_approval_and_the_calendar() -> None:
    assert due(at(), finding=Finding("inconclusive")) == "hold: inconclusive"
    assert due(at(1)) == "hold: approval"
    assert due(at(1, approved=1)) == "advance"
    assert due(at(), is_open=False) == "hold: schedule"
    assert due(at(), is_pinned=True) == "hold: pinned"


def test_it_holds_at_once_where_nothing_can_be_known_and_goes_on_by_itself() -> None:
    assert due(at(), 5, Finding("error", "no counts for 30 s")) == "hold: no counts for 30 s"
    assert due(at(), 5, Finding("error")) == "hold: error"
    assert due(at(phase="holding", phase_reason="error"), 5) == "resume"


def test_what_it_waits_for_is_told_once() -> None:
    assert due(at(1, phase="holding", phase_reason="approval")) is None
    assert due(at(1, phase="holding", phase_reason="inconclusive")) == "hold: approval"


def test_a_stage_without_a_duration_ends_by_hand() -> None:
    endless = rollout(10, state={"phase": "progressing", "stage": 0}, stages=[10, 50])

    assert due(endless, 1e9) is None
    assert due(rollout(10, state={"phase": "progressing"}), 1e9) is None


def test_the_bake_is_the_last_stages_own_or_the_plans() -> None:
    assert due(at(2, phase="baking"), 7199) is None
    assert due(at(2, phase="baking"), 7200) == "complete"
    assert due(at(0, phase="baking"), 3600) == "complete"
    assert due(at(2, phase="baking"), 9999, Finding("error")) is None
    assert due(rollout(10, state={"phase": "baking"}), 0) == "complete"


@given(
    phase=st.sampled_from(["progressing", "holding", "baking"]),
    stage=st.integers(0, 2),
    approved=st.integers(-1, 2),
    verdict=st.sampled_from(["pass", "fail", "inconclusive", "error"]),
    in_stage_s=st.floats(0, 1e6),
    is_open=st.booleans(),
    is_pinned=st.booleans(),
)
def test_whatever_is_due_is_allowed_and_raises_the_weight_only_on_a_pass(
    phase: Any, stage: int, approved: int, verdict: Any, in_stage_s: float, is_open: bool, is_pinned: bool
) -> None:
    before = at(stage, phase, approved=approved)
    move = next_move(before, Facts(Finding(verdict), in_stage_s, is_open, is_pinned))
    if move is None:
        return
    transition: Any = getattr(transitions, move.verb)
    after = transition(before, move.why) if move.verb in ("hold", "roll_back") else transition(before)

    assert after.stage - before.stage in (0, 1)
    if after.effective_ppm > before.effective_ppm:
        assert (verdict, is_open, is_pinned) == ("pass", True, False)


def event(at_s: float, verb: str, phase: str, stage: int = 0, *, came_from: tuple[str, int] = ("idle", -1)) -> Event:
    return Event(
        rollout="checkout",
        revision=1,
        at_s=at_s,
        actor="x",
        verb=verb,
        before={"phase": came_from[0], "stage": came_from[1]},
        after={"phase": phase, "stage": stage},
    )


def test_the_clock_of_a_stage_stands_still_while_it_is_paused() -> None:
    events = [
        event(700, "resume", "progressing", came_from=("paused", 0)),
        event(300, "pause", "paused", came_from=("progressing", 0)),
        event(200, "hold", "holding", came_from=("progressing", 0)),
        event(100, "start", "progressing"),
        event(0, "register", "idle", -1),
    ]

    assert stage_clock(events, 1000) == 200 + 300
    assert stage_clock(events[1:], 1000) == 200


def test_the_clock_begins_anew_with_each_stage_and_with_the_bake() -> None:
    started = event(0, "start", "progressing")

    assert stage_clock([event(50, "advance", "progressing", 1, came_from=("progressing", 0)), started], 60) == 10
    assert stage_clock([event(50, "set", "paused", 1, came_from=("progressing", 0)), started], 60) == 0
    assert stage_clock([event(50, "next", "baking", 1, came_from=("progressing", 1)), started], 60) == 10
    assert stage_clock([], 60) == 0


def test_a_clock_that_jumps_back_adds_nothing() -> None:
    events = [event(500, "resume", "progressing", came_from=("paused", 0)), event(100, "start", "progressing")]

    assert stage_clock(events, 50) == 0


def test_a_hold_and_a_stage_are_as_old_as_the_event_that_began_them() -> None:
    started = event(0, "start", "progressing")
    held = event(40, "hold", "holding", came_from=("progressing", 0))
    other = event(60, "hold", "holding", came_from=("holding", 0))

    assert held_since([other, held, started]) == 40
    assert held_since([other, held]) == 40
    assert held_since([started]) is None
    assert stage_began([other, held, started]) == 0
    assert stage_began([event(50, "advance", "progressing", 1, came_from=("progressing", 0)), started]) == 50
