"""Another plan for a rollout under way: what pauses it, what does not, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.transitions import change_plan
from canary_middleware._core.plan.changes import (
    changed_keys,
    declared_by,
    describe,
    evidence_of,
    fingerprint,
    moved_percent,
    must_pause,
    rebased,
)
from canary_middleware.errors import TransitionRefused

from .test_rollout import plan, rollout

if TYPE_CHECKING:
    from canary_middleware._core.lifecycle.rollout import Rollout
    from canary_middleware._core.plan.schema import RolloutPlan

STAGES = [10, 30, 50, 100]


def at_stage(number: int, phase: str = "progressing", **fields: Any) -> Rollout:
    """A rollout in the stage of that index."""
    fields = {"stages": STAGES, "duration": "30m", **fields}
    weight_ppm = plan(**fields).stages[number].weight_ppm
    return rollout(weight_ppm / 10_000, state={"phase": phase, "stage": number, "revision": 7}, **fields)


def said(before: Rollout, after: Rollout) -> str:
    return describe(before, after, evidence_of(before, after))


def edited(**fields: Any) -> RolloutPlan:
    return plan(**{"stages": STAGES, "duration": "30m", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"stages": [10, 30, 60, 100]},
        {"stages": [10, 30]},
        {"stages": [10, 30, 40, 50, 100]},
        {"stages": [10, 30, {"weight": 50, "approve": True, "criteria": {"min_requests": 5}}, 100]},
        {"bake": "1h"},
        {"version_header": "X-Version"},
        {"version_header": False, "cache_headers": False},
        {"end_of_life": {"successor": "/v2"}},
        {"env": {"weight": "OTHER"}},
        {"weight": 5},
    ],
)
def test_later_stages_and_what_answers_say_of_themselves_pause_nothing(fields: dict[str, Any]) -> None:
    before = at_stage(1)

    after = change_plan(before, edited(**fields))

    assert (after.phase, after.weight_ppm, after.stage, after.revision) == ("progressing", 300_000, 1, 8)
    assert after.plan == edited(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"stages": [10, 20, 50, 100]},
        {"stages": [5, 30, 50, 100]},
        {"stages": [30, 50, 100]},
        {"stages": [10]},
        {"stages": []},
        {"stages": [10, {"weight": 30, "approve": True}, 50, 100]},
        {"duration": "31m"},
        {"criteria": {"min_requests": 100}},
        {"guardrails": {"error_rate": {"max": 0.05}}},
        {"salt": "other"},
        {"hash": "md5-100"},
        {"key": ["header:x"]},
        {"endpoints": ["GET /a"]},
        {"exclude": ["GET /a"]},
        {"fallback": "never"},
        {"segments": [{"name": "eu", "when": {"region": ["eu"]}, "weight": 50}]},
        {"overrides": {"users": {"v2": ["qa"]}}},
        {"enabled": False},
        {"json_cap": "1KiB"},
        {"body_cap": "1KiB"},
    ],
)
@pytest.mark.parametrize("phase", ["progressing", "holding", "paused"])
def test_everything_else_pauses_it_where_it_stands(fields: dict[str, Any], phase: str) -> None:
    before = at_stage(1, phase)

    after = change_plan(before, edited(**fields))

    assert (after.phase, after.phase_reason, after.weight_ppm) == ("paused", "config_changed", 300_000)
    assert after.resume_to == "progressing"
    assert after.plan == edited(**fields)


def test_defaults_that_only_later_stages_go_by_pause_nothing() -> None:
    own = {"weight": 10, "duration": "5m", "criteria": {"min_requests": 1}}
    before = at_stage(0, stages=[own, 50])

    assert not must_pause(before, plan(stages=[own, 50], duration="2h", criteria={"min_requests": 9}))
    assert must_pause(before._replace(stage=1), plan(stages=[own, 50], duration="2h"))


@pytest.mark.parametrize("phase", ["idle", "completed", "rolled_back", "locked"])
def test_where_nothing_is_in_progress_nothing_pauses(phase: str) -> None:
    assert not must_pause(at_stage(1, phase), edited(salt="other"))


def test_without_stages_every_limit_matters() -> None:
    by_hand = rollout(30, state={"phase": "paused", "phase_reason": "manual"})

    assert must_pause(by_hand, plan(duration="2h"))
    assert must_pause(by_hand, plan(criteria={"min_requests": 9}))


def test_a_bake_is_paused_by_its_own_length_and_by_further_stages() -> None:
    baking = at_stage(3, "baking")

    longer = change_plan(baking, edited(bake="2h"))
    further = change_plan(at_stage(1, "baking", stages=[10, 30]), edited(stages=[10, 30, 50]))

    assert (longer.phase, longer.resume_to) == ("paused", "baking")
    assert (further.phase, further.resume_to) == ("paused", "progressing")
    assert change_plan(baking, edited(end_of_life={"successor": "/v2"})).phase == "baking"
    assert change_plan(longer, edited(bake="3h", salt="x")).resume_to == "baking"


@pytest.mark.parametrize(
    ("weight", "stages", "stage"),
    [(40, [10, 30, 35, 50], 2), (40, [10, 30, 60], 1), (40, [10, 50, 100], 0), (5, [10, 30], -1)],
)
def test_going_on_after_a_pause_never_lowers_a_weight_set_by_hand(weight: int, stages: list[int], stage: int) -> None:
    before = transitions.set_weight(at_stage(1), weight * 10_000)

    after = change_plan(before, edited(stages=stages))

    assert (after.stage, after.weight_ppm) == (stage, weight * 10_000)
    assert transitions.advance(transitions.resume(after)).weight_ppm >= before.weight_ppm


def test_an_approval_holds_as_long_as_its_stage_stays_the_same() -> None:
    approved = at_stage(1)._replace(approved=1)

    assert change_plan(approved, edited(stages=[10, 30, 60])).approved == 1
    assert change_plan(approved, edited(stages=[10, {"weight": 30, "approve": True}])).approved == 0
    assert change_plan(approved, edited(stages=[5, 30])).approved == -1


@pytest.mark.parametrize("phase", ["rolled_back", "locked"])
def test_a_latch_is_neither_lifted_nor_changed(phase: str) -> None:
    before = at_stage(2)._replace(phase=phase, phase_reason="errors", weight_ppm=0)  # type: ignore[arg-type]

    after = change_plan(before, edited(salt="other", stages=[10], canary="v3"))
    same_versions = change_plan(before, edited(salt="other", stages=[10]))

    for found in (after, same_versions):
        assert (found.phase, found.phase_reason, found.weight_ppm, found.stage) == (phase, "errors", 0, 0)
    with pytest.raises(TransitionRefused, match=r"Everybody has v1; a new name makes a new rollout\.$"):
        change_plan(before, edited(stable="v9"))


@pytest.mark.parametrize("phase", ["progressing", "holding", "paused", "baking"])
@pytest.mark.parametrize("fields", [{"canary": "v3"}, {"stable": "v0"}, {"canary": {"v2": 50, "v3": 50}}])
def test_versions_stay_while_users_move_between_them(phase: str, fields: dict[str, Any]) -> None:
    with pytest.raises(TransitionRefused, match="Roll it back or let it complete first"):
        change_plan(at_stage(1, phase), edited(**fields))


def test_a_completed_rollout_begins_anew_from_the_version_that_everybody_has() -> None:
    completed = at_stage(3, "completed")._replace(approved=2)

    after = change_plan(completed, edited(stable="v2", canary="v3"))

    assert (after.phase, after.weight_ppm, after.stage, after.approved) == ("idle", 0, -1, -1)
    assert moved_percent(completed, after) == 0
    assert said(completed, after) == "stable, canary; 0 % of identities change version; a new run begins at 0 %"
    with pytest.raises(TransitionRefused, match=r"Everybody has v2: make that the stable version\.$"):
        change_plan(completed, edited(canary="v3"))


def test_a_completed_rollout_stays_so_with_the_same_versions() -> None:
    after = change_plan(at_stage(3, "completed"), edited(stages=[50, 100], fallback="never"))

    assert (after.phase, after.weight_ppm, after.stage) == ("completed", 1_000_000, 1)


def test_an_idle_rollout_takes_any_plan_and_its_weight_until_somebody_steers() -> None:
    before = rollout(10, weight=10)

    after = change_plan(before, plan(weight=20, stable="a", canary="b"))
    steered = change_plan(before._replace(weight_ppm=0), plan(weight=20))

    assert (after.phase, after.weight_ppm, after.plan.stable) == ("idle", 200_000, "a")
    assert (steered.phase, steered.weight_ppm) == ("idle", 0)


def test_the_last_plans_are_remembered_and_one_that_returns_is_no_longer_past() -> None:
    current = rollout(0, salt="s0")
    for n in range(1, 70):
        current = change_plan(current, plan(salt=f"s{n}"))
    back = change_plan(current, plan(salt="s68"))

    assert len(current.superseded) == 64
    assert current.superseded[0] == fingerprint(plan(salt="s68"))
    assert back.declared == fingerprint(plan(salt="s68")) not in back.superseded
    assert back.superseded[0] == fingerprint(plan(salt="s69"))


def test_a_fingerprint_is_of_what_the_authors_wrote() -> None:
    written = rollout(0, endpoints=["GET /a"])
    current = change_plan(written, plan(endpoints=["GET /a", "GET /b"]), "feed")

    assert declared_by(written) == fingerprint(plan(endpoints=["GET /a"]))
    assert declared_by(transitions.add_endpoint(current, "GET /c")) == "feed"
    assert fingerprint(plan(canary={"v2": 50, "v3": 50})) != fingerprint(plan(canary={"v3": 50, "v2": 50}))


def test_a_key_that_says_what_is_so_anyway_makes_no_other_plan() -> None:
    assert fingerprint(plan(fallback="safe-methods", hash="blake2b")) == fingerprint(plan())
    assert len({fingerprint(plan(**fields)) for fields in DIFFERENT}) == len(DIFFERENT)


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"salt": "a"},
    {"hash": "md5-100"},
    {"stable": "v0"},
    {"stages": [10]},
    {"stages": [10, 20]},
    {"stages": [{"weight": 10, "approve": True}]},
    {"key": ["user"]},
    {"key": [len]},
    {"enabled": False},
    {"weight": 1},
    {"duration": "1m"},
    {"guardrails": {"error_rate": {"max": 0.1}}},
    {"criteria": {"error_rate": {"max": 0.1}}},
]


def test_changed_keys_are_named_as_in_the_file() -> None:
    before = plan(key=["header:x"], stages=[10, 50], duration="1h")
    after = plan(
        key=["header:y"], stages=[10, 60, 100], bake="1h", weight=3, canary="v3", guardrails={"p95": {"max": "1s"}}
    )

    assert changed_keys(before, after) == (
        "canary",
        "key",
        "weight",
        "stages[1]",
        "stages[2]",
        "duration",
        "bake",
        "guardrails",
    )
    assert changed_keys(before, before) == ()


def test_what_was_changed_at_run_time_survives_an_edit_of_something_else() -> None:
    old, new = plan(endpoints=["GET /a"]), plan(endpoints=["GET /a"], salt="other")
    current = plan(endpoints=["GET /a", "GET /b"])

    assert rebased(current, old, new) == plan(endpoints=["GET /a", "GET /b"], salt="other")


def test_another_salt_says_how_many_change_version() -> None:
    before = at_stage(2)
    after = change_plan(before, edited(salt="other"))

    # Half are on the canary; with another draw a quarter comes and a quarter goes.
    found = moved_percent(before, after)
    assert 48 < found < 52
    assert said(before, after) == f"salt; {found:.3g} % of identities change version; paused"
    assert evidence_of(before, after) == {"keys": ["salt"], "plan": after.declared, "moved_percent": found}


def test_another_key_says_that_nobody_can_know() -> None:
    before = at_stage(1, "paused")

    assert said(before, change_plan(before, edited(key=["header:x"]))) == (
        "key; another identity is asked for: who changes version cannot be told in advance"
    )
    assert said(before, before) == "nothing that matters here"
