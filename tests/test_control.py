"""Changes in a store: one writer wins each revision, the other is told who was first, and a rollback insists."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.schema import parse
from canary_middleware.errors import ConfigError, StaleRevision, StoreUnavailable, TransitionRefused
from canary_middleware.stores.changes import Control
from tests.support.fake_store import FakeStore

if TYPE_CHECKING:
    from canary_middleware._core.ports import Store


def a_rollout(name: str = "checkout", **fields: object) -> Rollout:
    return Rollout(plan=parse({"rollout": {name: fields}}).rollouts[0])


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def control(store: FakeStore) -> Control:
    typed: Store = store
    control = Control(typed)
    assert control.register(a_rollout(), actor="worker", reason="first seen")
    return control


def to(percent: int) -> partial[Rollout]:
    return partial(transitions.set_weight, weight_ppm=percent * 10_000)


def test_a_change_is_in_the_store_and_in_the_audit_trail(control: Control, store: FakeStore) -> None:
    changed = control.change("checkout", "set", to(10), actor="ada", reason="first day", evidence={"requests": 1000})

    assert control.rollout("checkout") == changed
    assert (changed.weight_ppm, changed.revision) == (100_000, 1)
    event = store.history("checkout", 1)[0]
    assert (event.rollout, event.revision, event.at_s) == ("checkout", 1, store.time_s)
    assert (event.actor, event.verb, event.reason, event.evidence) == ("ada", "set", "first day", {"requests": 1000})
    assert (event.before["weight_ppm"], event.after["weight_ppm"]) == (0, 100_000)


def test_whoever_decided_on_an_older_revision_is_told_who_was_first(control: Control, store: FakeStore) -> None:
    control.change("checkout", "set", to(10), actor="ada", reason="first day")

    with pytest.raises(StaleRevision) as error:
        control.change("checkout", "set", to(50), actor="grace", expect=0)

    assert str(error.value) == (
        "'checkout' was changed by ada (set: first day): it is at revision 1, you decided on 0. "
        "Look at it again, then decide"
    )
    assert control.rollout("checkout").weight_ppm == 100_000
    assert [event.actor for event in store.events] == ["worker", "ada"]


def test_a_conflict_without_a_reason_or_a_history_still_says_what_to_do(control: Control, store: FakeStore) -> None:
    control.change("checkout", "set", to(10), actor="ada")

    with pytest.raises(StaleRevision, match=r"by ada \(set\): it is at revision 1"):
        control.change("checkout", "set", to(50), actor="grace", expect=0)
    store.events.clear()
    with pytest.raises(StaleRevision, match="'checkout' was changed: it is at revision 1, you decided on 0"):
        control.change("checkout", "set", to(50), actor="grace", expect=0)


def test_of_two_writers_at_once_the_later_gives_way_and_learns_who_was_first(
    control: Control, store: FakeStore
) -> None:
    def someone_is_faster() -> None:
        control.change("checkout", "set", to(10), actor="ada")

    store.before_write = someone_is_faster

    with pytest.raises(StaleRevision, match=r"at revision 1, not 0: ada \(set\) was first"):
        control.change("checkout", "set", to(50), actor="grace")

    assert control.rollout("checkout").weight_ppm == 100_000


@pytest.mark.parametrize("expect", [None, 0])
def test_a_rollback_that_lost_a_race_is_tried_again_and_wins(
    control: Control, store: FakeStore, expect: int | None
) -> None:
    races = 0

    def someone_is_faster() -> None:
        nonlocal races
        races += 1
        control.change("checkout", "set", to(races), actor="ada")
        if races < 5:
            store.before_write = someone_is_faster

    store.before_write = someone_is_faster
    changed = control.change(
        "checkout", "rollback", partial(transitions.roll_back, trigger="errors"), actor="guardrail", expect=expect
    )

    assert races == 5
    assert control.rollout("checkout") == changed
    assert (changed.phase, changed.weight_ppm, changed.revision) == ("rolled_back", 0, 6)


def test_a_step_begins_where_the_one_before_it_has_ended(control: Control, store: FakeStore) -> None:
    def someone_is_faster() -> None:
        control.change("checkout", "set", to(30), actor="ada")

    store.before_write = someone_is_faster
    before, after = control.step("checkout", "emergency", transitions.lock, actor="grace")

    assert (before.revision, before.weight_ppm) == (1, 300_000)
    assert (after.revision, after.phase) == (2, "locked")


def test_a_rollback_does_not_insist_for_ever(control: Control, store: FakeStore) -> None:
    def someone_is_faster() -> None:
        control.change("checkout", "set", to(1), actor="ada")
        store.before_write = someone_is_faster

    store.before_write = someone_is_faster

    with pytest.raises(StaleRevision):
        control.change("checkout", "emergency", transitions.lock, actor="ada")
    assert control.rollout("checkout").revision == 100


def test_what_the_phase_does_not_allow_changes_nothing(control: Control, store: FakeStore) -> None:
    control.change("checkout", "rollback", partial(transitions.roll_back, trigger="manual"), actor="ada")

    with pytest.raises(TransitionRefused, match="canary retry"):
        control.change("checkout", "set", to(50), actor="ada")
    assert [event.verb for event in store.events] == ["register", "rollback"]


def test_a_store_that_is_away_is_the_operators_affair_and_nothing_changed(control: Control, store: FakeStore) -> None:
    store.is_away = True

    with pytest.raises(StoreUnavailable):
        control.change("checkout", "set", to(50), actor="ada")
    store.is_away = False
    assert control.rollout("checkout").revision == 0


def test_registering_what_is_there_already_leaves_it_as_it_is(control: Control) -> None:
    control.change("checkout", "set", to(10), actor="ada")

    assert not control.register(a_rollout(), actor="late", reason="first seen")
    assert control.rollout("checkout").weight_ppm == 100_000


def test_an_unknown_rollout_is_answered_with_the_ones_there_are(control: Control) -> None:
    with pytest.raises(ConfigError, match=r"no rollout 'chekout' in memory:fake: did you mean 'checkout'\?"):
        control.rollout("chekout")
    control.register(a_rollout("search"), actor="worker", reason="first seen")
    with pytest.raises(ConfigError, match="no rollout 'xyz' in memory:fake: there are checkout, search"):
        control.rollout("xyz")
    with pytest.raises(ConfigError, match="it holds none yet: start the service first"):
        Control(FakeStore()).rollout("checkout")


def test_a_record_that_cannot_be_read_does_not_stand_in_the_way_of_another(control: Control, store: FakeStore) -> None:
    store.set_back({"name": "search", "schema": 99})

    changed = control.change("checkout", "emergency", transitions.lock, actor="ada")

    assert control.rollout("checkout") == changed
    with pytest.raises(ConfigError, match="upgrade this process"):
        control.rollouts()
    assert [control.knows(name) for name in ("checkout", "search", "nobody")] == [True, True, False]
