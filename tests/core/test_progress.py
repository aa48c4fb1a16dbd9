"""What automation does next: one stage at a time, and nothing that a person has not left to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware.core import transitions
from canary_middleware.core.progress import Facts, Finding, Move, next_move, stage_clock
from canary_middleware.core.records import Event

from .test_rollout import rollout

if TYPE_CHECKING:
    from canary_middleware.core.rollout import Rollout

STAGES = [10, {"weight": 50, "approve": True}, {"weight": 100, "duration": "1h", "bake": "2h"}]
PASS = Finding("pass", "as good as v1")


def at(stage: int = 0, phase: str = "progressing", **state: Any) -> Rollout:
    return rollout(10, state={"phase": phase, "stage": stage, **state}, stages=STAGES, duration="30m", bake="1h")


def due(current: Rollout, in_stage_s: float = 1800, finding: Finding = PASS, **facts: Any) -> str | None:
    """``verb`` or ``hold: reason``."""
    move = next_move(current, Facts(finding, in_stage_s, **facts))
    if move is None:
        return None
    return f"hold: {move.reason}" if move.verb == "hold" else move.verb


@pytest.mark.parametrize("phase", ["idle", "paused", "completed", "rolled_back", "locked"])
@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive", "error"])
def test_what_a_person_has_stopped_or_not_begun_is_left_alone(phase: str, verdict: Any) -> None:
    assert due(at(phase=phase), finding=Finding(verdict)) is None


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
    after = transition(before, move.reason) if move.verb in ("hold", "roll_back") else transition(before)

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
