"""How a rollout may change: the invariants, held against every sequence of moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.changes import IN_PROGRESS
from canary_middleware.errors import ConfigError, TransitionRefused

from .test_rollout import plan, rollout

if TYPE_CHECKING:
    from collections.abc import Callable

STAGES = [10, {"weight": 30, "approve": True}, 50, 100]


class Moves(RuleBasedStateMachine):
    """Humans and automation at random; what must never happen is checked after each move."""

    def __init__(self) -> None:
        super().__init__()
        self.current = Rollout(plan=plan(stages=STAGES))
        self.revision = 0

    def move(self, transition: Callable[[Rollout], Rollout]) -> Rollout | None:
        """The rollout before, where the move was made; None where it was refused, with a way out in its message."""
        before = self.current
        refusal = ""
        try:
            after = transition(before)
        except TransitionRefused as error:
            refusal = str(error)
        if refusal:
            # "cannot <verb> '<name>': it is <phase>. <what would help>"
            assert refusal.rpartition(". ")[0]
            assert refusal.endswith((".", ")."))
            return None
        assert after.revision == before.revision + 1
        self.current = after
        return before

    @rule()
    def automation_advances(self) -> None:
        before = self.move(transitions.advance)
        if before is not None:
            assert not before.is_latched
            assert self.current.stage - before.stage in (0, 1)

    @rule(why=st.sampled_from(["inconclusive", "schedule"]))
    def automation_holds(self, why: str) -> None:
        before = self.move(lambda r: transitions.hold(r, why))
        if before is not None:
            assert self.current.weight_ppm == before.weight_ppm

    @rule()
    def automation_retreats(self) -> None:
        before = self.move(lambda r: transitions.retreat(r, "shared incident"))
        if before is not None:
            assert self.current.weight_ppm <= min(before.weight_ppm, 100_000)
            assert (self.current.phase, self.current.stage) == ("holding", 0)

    @rule()
    def something_rolls_back(self) -> None:
        assert self.move(lambda r: transitions.roll_back(r, "error_rate")) is not None
        assert self.current.is_latched
        assert self.current.effective_ppm == 0

    @rule()
    def a_human_starts(self) -> None:
        self.move(transitions.start)

    @rule()
    def a_human_approves(self) -> None:
        before = self.move(transitions.approve)
        assert before is None or self.current.weight_ppm == before.weight_ppm

    @rule()
    def a_human_pauses(self) -> None:
        self.move(transitions.pause)

    @rule()
    def a_human_resumes(self) -> None:
        self.move(transitions.resume)

    @rule(stage=st.integers(-1, 5))
    def a_human_picks_a_stage(self, stage: int) -> None:
        before = self.move(lambda r: transitions.go_to_stage(r, stage))
        assert before is None or 0 <= stage < len(STAGES)

    @rule(weight=st.integers(0, 1_000_000))
    def a_human_sets_a_weight(self, weight: int) -> None:
        before = self.current
        moved = self.move(lambda r: transitions.set_weight(r, weight))
        if weight <= before.effective_ppm:
            assert moved is not None, "lowering is always allowed"
        if moved is not None and before.is_latched:
            assert self.current.effective_ppm == 0

    @rule()
    def a_human_steps_down(self) -> None:
        before = self.move(transitions.step_down)
        assert before is None or self.current.weight_ppm <= before.weight_ppm

    @rule()
    def a_human_retries(self) -> None:
        before = self.move(transitions.retry)
        assert before is None or before.phase == "rolled_back"

    @rule()
    def the_bake_ends(self) -> None:
        before = self.move(transitions.complete)
        assert before is None or before.phase == "baking"

    @rule(
        stages=st.sampled_from([STAGES, STAGES[:2], [5, 10, 20, 60], [*STAGES[:3], 70], []]),
        salt=st.sampled_from(["checkout", "other"]),
        canary=st.sampled_from(["v2", "v2", "v3"]),
    )
    def somebody_edits_the_plan(self, stages: list[Any], salt: str, canary: str) -> None:
        before = self.move(lambda r: transitions.change_plan(r, plan(stages=stages, salt=salt, canary=canary)))
        if before is None:
            return
        after = self.current
        assert after.weight_ppm == before.weight_ppm or (before.phase, after.phase) == ("completed", "idle")
        assert after.is_latched == before.is_latched
        assert after.phase in (before.phase, "paused", "idle")
        if before.phase in IN_PROGRESS:
            assert after.phase == before.phase or after.phase_reason == "config_changed"
            assert canary == before.plan.canaries[0][0]

    @rule()
    def somebody_pulls_the_latch(self) -> None:
        assert self.move(transitions.lock) is not None

    @rule()
    def somebody_lifts_the_latch(self) -> None:
        before = self.move(transitions.unlock)
        if before is not None:
            assert before.phase == "locked"
            assert self.current.phase == "rolled_back"

    @invariant()
    def the_state_is_sound(self) -> None:
        current = self.current
        assert 0 <= current.weight_ppm <= 1_000_000
        assert current.revision >= self.revision
        assert not current.is_latched or current.effective_ppm == 0
        assert -1 <= current.stage < max(1, len(current.plan.stages))
        assert current.approved <= max(current.stage, -1) or not current.plan.stages
        self.revision = current.revision


TestMoves = Moves.TestCase


def at(phase: str, **state: Any) -> Rollout:
    return rollout(0, state={"phase": phase, **state}, stages=STAGES)


@pytest.mark.parametrize("verb", ["start", "advance", "pause", "resume", "complete"])
@pytest.mark.parametrize(("phase", "way_out"), [("rolled_back", "canary retry"), ("locked", "emergency")])
def test_nothing_but_the_named_way_leaves_a_latch(verb: str, phase: str, way_out: str) -> None:
    with pytest.raises(TransitionRefused, match=way_out):
        getattr(transitions, verb)(at(phase))


def test_the_plan_runs_to_its_end() -> None:
    current = transitions.start(at("idle"))
    weights = [current.weight_ppm]
    while current.phase == "progressing":
        current = transitions.advance(current)
        weights.append(current.weight_ppm)

    assert weights == [100_000, 300_000, 500_000, 1_000_000, 1_000_000]
    assert current.phase == "baking"
    assert transitions.advance(current).phase == transitions.complete(current).phase == "completed"


def test_a_rollback_by_hand_goes_one_stage_down_at_a_time() -> None:
    current = at("progressing", weight_ppm=1_000_000, stage=3)
    seen = []
    while not current.is_latched:
        current = transitions.step_down(current)
        seen.append(current.weight_ppm // 10_000)

    assert seen == [50, 30, 10, 0]


def test_a_weight_set_by_hand_keeps_the_place_in_the_plan() -> None:
    current = transitions.set_weight(at("progressing", stage=0, weight_ppm=100_000), 350_000)

    assert (current.phase, current.phase_reason, current.stage) == ("paused", "manual", 1)
    assert transitions.advance(transitions.resume(current)).weight_ppm == 500_000


def test_a_retreat_holds_at_the_first_stage_and_resumes_from_there() -> None:
    far = at("progressing", stage=2, weight_ppm=500_000)
    held = transitions.retreat(far, "shared incident")

    assert (held.phase, held.phase_reason, held.stage, held.weight_ppm) == ("holding", "shared incident", 0, 100_000)
    assert (transitions.resume(held).phase, transitions.resume(held).weight_ppm) == ("progressing", 100_000)
    lower = at("progressing", stage=0, weight_ppm=50_000)
    assert transitions.retreat(lower, "x").weight_ppm == 50_000
    bare = transitions.retreat(rollout(20, state={"phase": "progressing"}), "x")
    assert (bare.weight_ppm, bare.stage) == (200_000, -1)


def test_an_approval_is_for_the_stage_in_force_and_once() -> None:
    waiting = at("holding", phase_reason="approval", resume_to="progressing", stage=1, weight_ppm=300_000)
    approved = transitions.approve(waiting)

    assert (approved.phase, approved.approved, approved.weight_ppm) == ("progressing", 1, 300_000)
    with pytest.raises(TransitionRefused, match=r"Stage 2 has been approved already"):
        transitions.approve(approved)
    with pytest.raises(TransitionRefused, match=r"asks for no approval; `canary next`"):
        transitions.approve(transitions.advance(approved))
    with pytest.raises(TransitionRefused, match="asks for no approval"):
        transitions.approve(at("idle"))


def test_an_approval_does_not_outlive_a_second_try() -> None:
    approved = transitions.approve(at("progressing", stage=1, weight_ppm=300_000))

    again = transitions.advance(transitions.retry(transitions.roll_back(approved, "x")))

    assert (again.stage, again.approved) == (1, -1)


def test_a_pause_while_baking_resumes_into_the_bake() -> None:
    assert transitions.resume(transitions.pause(at("baking", stage=3))).phase == "baking"
    assert transitions.pause(at("paused"), "again").phase_reason == "again"


@pytest.mark.parametrize(
    ("transition", "phase"),
    [
        (transitions.start, "progressing"),
        (transitions.advance, "completed"),
        (transitions.pause, "idle"),
        (transitions.resume, "progressing"),
        (lambda r: transitions.hold(r, "x"), "idle"),
        (transitions.retry, "idle"),
        (transitions.complete, "progressing"),
        (transitions.unlock, "idle"),
        (lambda r: transitions.set_weight(r, 1_000_001), "idle"),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(transition: Callable[[Rollout], Rollout], phase: str) -> None:
    with pytest.raises(TransitionRefused):
        transition(at(phase))


def test_a_plan_without_stages_is_steered_by_weight() -> None:
    bare = rollout(0)

    for transition in (transitions.start, transitions.advance):
        with pytest.raises(TransitionRefused, match="no stages"):
            transition(bare)
    paused = transitions.set_weight(bare, 500_000)
    with pytest.raises(TransitionRefused, match="no stages"):
        transitions.resume(paused)
    assert transitions.retry(transitions.roll_back(paused, "x")).phase == "idle"


def test_endpoints_come_and_go_but_never_to_none() -> None:
    one = rollout(0, endpoints=["GET /a"])
    two = transitions.add_endpoint(one, "GET /b")

    assert two.plan.endpoints == ("GET /a", "GET /b")
    assert transitions.remove_endpoint(two, "GET /a").plan.endpoints == ("GET /b",)
    for refused in (
        lambda: transitions.add_endpoint(two, "GET /b"),
        lambda: transitions.add_endpoint(rollout(0), "GET /b"),
        lambda: transitions.remove_endpoint(one, "GET /a"),
        lambda: transitions.remove_endpoint(one, "GET /z"),
        lambda: transitions.remove_endpoint(rollout(0), "GET /z"),
    ):
        with pytest.raises(TransitionRefused):
            refused()


def test_the_latch_outlives_a_rollback() -> None:
    assert transitions.roll_back(at("locked"), "x").phase == "locked"


@pytest.mark.parametrize("phase", ["rolled_back", "locked"])
def test_lowering_is_allowed_under_a_latch_and_leaves_it_on(phase: str) -> None:
    lowered = transitions.set_weight(rollout(10, state={"phase": phase}), 0)

    assert (lowered.phase, lowered.weight_ppm, lowered.revision) == (phase, 0, 1)


def test_an_endpoint_that_is_no_template_never_enters_a_plan() -> None:
    with pytest.raises(ConfigError, match="the path must begin with /"):
        transitions.add_endpoint(rollout(0, endpoints=["/a"]), "no-slash")


def test_the_first_reason_of_a_rollback_stays() -> None:
    first = transitions.roll_back(at("progressing"), "error_rate")

    again = transitions.roll_back(first, "manual")

    assert (again.phase, again.phase_reason, again.weight_ppm) == ("rolled_back", "error_rate", 0)
    assert again.revision == first.revision + 1


def test_a_retry_under_the_latch_names_the_command_that_lifts_it() -> None:
    with pytest.raises(TransitionRefused, match="canary emergency off"):
        transitions.retry(at("locked"))
