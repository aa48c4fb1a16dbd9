"""Plan and state as one document: JSON can hold it, the plan can be read back, and each stage says where it stands."""

from __future__ import annotations

import json
from functools import partial

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.changes import fingerprint
from canary_middleware._core.plan.schema import parse
from canary_middleware._views.export import export_document
from canary_middleware.stores.changes import Control
from tests.support.fake_store import FakeStore

FIELDS = {"stages": [10, {"weight": 50, "approve": True}, 100], "duration": "30m", "key": ["header:x-user"]}


@pytest.fixture
def control() -> Control:
    control = Control(FakeStore())
    plan = parse({"rollout": {"checkout": FIELDS}}).rollouts[0]
    control.register(Rollout(plan=plan), actor="w", reason="first seen")
    return control


def steer(control: Control, *moves: str) -> Rollout:
    for move in moves:
        control.change("checkout", move, getattr(transitions, move), actor="ada", reason="because")
    return control.rollout("checkout")


def test_the_document_holds_plan_and_state_and_the_plan_can_be_read_back(control: Control) -> None:
    rollout = steer(control, "start", "advance", "approve", "pause")

    document = json.loads(json.dumps(export_document(control, rollout)))

    assert parse({key: value for key, value in document.items() if key != "state"}).rollouts[0] == rollout.plan
    state = document["state"]
    assert [stage["status"] for stage in state["stages"]] == ["completed", "in_progress", "pending"]
    assert {key: state[key] for key in ("rollout", "phase", "phase_reason", "weight", "stage", "approved")} == {
        "rollout": "checkout",
        "phase": "paused",
        "phase_reason": "manual",
        "weight": 50,
        "stage": 2,
        "approved": 2,
    }
    assert (state["revision"], state["store"], state["exported_at"]) == (4, "memory:fake", "2023-11-14T22:13:20Z")
    assert state["plan"] == fingerprint(rollout.plan)
    assert [event["verb"] for event in state["events"]] == ["pause", "approve", "advance", "start", "register"]
    assert (state["events"][0]["actor"], state["events"][0]["reason"]) == ("ada", "because")


def test_before_the_start_all_stages_are_pending_and_after_the_end_all_completed(control: Control) -> None:
    def stages(rollout: Rollout) -> list[str]:
        return [stage["status"] for stage in export_document(control, rollout)["state"]["stages"]]

    assert stages(control.rollout("checkout")) == ["pending"] * 3
    done = steer(control, "start", "advance", "advance", "advance", "complete")
    assert stages(done) == ["completed"] * 3
    back = partial(transitions.roll_back, trigger="errors")
    assert stages(control.change("checkout", "rollback", back, actor="ada")) == ["pending"] * 3
