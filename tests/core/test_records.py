"""What a store holds: whole, readable by those who know its schema, and by nobody else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from canary_middleware._core.lifecycle.records import Event, NewerSchema, from_record, stale, summary_of, to_record
from canary_middleware._core.lifecycle.transitions import advance, change_plan, pause, start
from canary_middleware._core.plan.changes import declared_by, fingerprint
from canary_middleware.errors import ConfigError

from .heads import Head
from .test_rollout import plan, rollout

if TYPE_CHECKING:
    from canary_middleware._core.lifecycle.rollout import Rollout


def stored(before: Rollout) -> Rollout:
    return from_record(json.loads(json.dumps(to_record(before))))


def test_a_rollout_survives_being_stored() -> None:
    before = pause(advance(start(rollout(0, stages=[10, 50], key=["header:x", "json:y"]))), "lunch")

    after = stored(before)

    assert after == before._replace(declared=fingerprint(before.plan))
    assert summary_of(after) == {"weight_ppm": 500_000, "phase": "paused", "stage": 1}


def test_the_plans_it_went_by_before_are_stored_too() -> None:
    before = change_plan(rollout(0, salt="one"), plan(salt="two"))

    assert before.superseded == (fingerprint(plan(salt="one")),)
    assert stored(before) == before


def account(request: object) -> str:
    """A key function of an app's."""
    return str(request)


def test_a_key_function_is_stored_by_its_name_and_finds_nobody_where_the_app_is_not() -> None:
    before = rollout(0, key=[account, "header:x"])

    after = stored(before)

    function, header = after.plan.key
    assert (function.spec, function.read(Head()), function.vary, function.in_url) == (
        "call:tests.core.test_records.account",
        None,
        None,
        False,
    )
    assert repr(function) == "Unreadable('call:tests.core.test_records.account')"
    assert header == before.plan.key[1]
    assert after == stored(before)
    assert len({function, *stored(before).plan.key}) == 2
    assert function != header
    assert fingerprint(after.plan) == fingerprint(before.plan) == after.declared


def test_a_record_from_before_fingerprints_goes_by_the_plan_it_holds() -> None:
    record = to_record(rollout(5))
    del record["declared"], record["superseded"]

    assert declared_by(from_record(record)) == fingerprint(plan())


@pytest.mark.parametrize("schema", [2, 99, None, "1"])
def test_a_record_of_a_newer_release_is_refused(schema: object) -> None:
    with pytest.raises(NewerSchema, match="upgrade this process"):
        from_record({**to_record(rollout(5)), "schema": schema})


@pytest.mark.parametrize(
    "damage",
    [
        {"weight_ppm": "30"},
        {"weight_ppm": None},
        {"weight_ppm": 2_000_000},
        {"weight_ppm": -1},
        {"weight_ppm": 0.5},
        {"weight_ppm": True},
        {"phase": "ramping"},
        {"phase": ["progressing"]},
        {"resume_to": "ramping"},
        {"stage": "1"},
        {"stage": -2},
        {"revision": "7"},
        {"revision": -1},
        {"approved": None},
    ],
)
def test_a_record_with_a_value_that_none_can_have_is_damaged(damage: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"damaged.*{next(iter(damage))} is "):
        from_record({**to_record(rollout(5)), **damage})


@pytest.mark.parametrize("missing", ["plan", "name", "weight_ppm", "phase", "revision"])
def test_a_damaged_record_is_named_as_such(missing: str) -> None:
    record = to_record(rollout(5))
    del record[missing]

    with pytest.raises(ConfigError, match="damaged"):
        from_record(record)


@pytest.mark.parametrize(
    ("there", "expect", "reason", "says"),
    [
        (3, 2, "launch", "was changed by ada (set: launch): it is at revision 3, you decided on 2. Look at it again"),
        (3, 2, "", "was changed by ada (set): it is at revision 3"),
        (3, None, "", "exists already, put there by ada (set): it is at revision 3; read it again"),
        (None, 2, "", "is not in the store, you decided on its revision 2: the store was emptied; read it again"),
    ],
)
def test_who_lost_a_race_is_told_who_won_it(there: int | None, expect: int | None, reason: str, says: str) -> None:
    last = Event(rollout="checkout", revision=3, at_s=0.0, actor="ada", verb="set", before={}, after={}, reason=reason)

    assert f"'checkout' {says}" in str(stale("checkout", there, expect, last))


def test_where_nobody_knows_who_was_first_the_loser_is_told_the_revisions() -> None:
    assert str(stale("checkout", 3, 2, None)) == (
        "'checkout' was changed: it is at revision 3, you decided on 2. Look at it again, then decide"
    )


def test_a_shadow_stage_that_an_earlier_release_wrote_does_not_hide_the_state() -> None:
    record = dict(to_record(rollout(stages=[10, 100])))
    record["plan"] = {**record["plan"], "stages": [{"weight": 10, "shadow": True}, 100]}

    assert [stage.weight_ppm for stage in from_record(record).plan.stages] == [100_000, 1_000_000]
