"""Processes whose plan files differ: one plan is in force for all of them, and none takes turns with another."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.records import to_record
from canary_middleware._core.plan.changes import fingerprint
from canary_middleware._serving.follower import REFRESH_S, Follower
from canary_middleware._serving.plan_keeper import PlanKeeper
from canary_middleware._serving.plan_watch import Edits
from canary_middleware.errors import StoreUnavailable, TransitionRefused
from canary_middleware.stores.changes import Control
from tests.core.heads import Head
from tests.support.fake_store import FakeStore

if TYPE_CHECKING:
    from pathlib import Path

    from canary_middleware._core.lifecycle.records import Event
    from canary_middleware._core.lifecycle.rollout import Rollout

BASE = {"stages": "[10, 50, 100]", "key": '["header:x-user"]'}


def text(name: str = "checkout", **fields: str) -> str:
    return "\n".join([f"[rollout.{name}]", *(f"{key} = {value}" for key, value in {**BASE, **fields}.items()), ""])


ONE, TWO, THREE = text(), text(salt='"two"'), text(salt='"three"')


class Process:
    """A process with a plan of its own, whose follower goes round when told to."""

    def __init__(self, store: FakeStore, source: Path | dict[str, Any]) -> None:
        self.store = store
        self.source = source
        self.canary = Canary.load(source, store=store, environ={})
        sharing = self.canary._sharing
        assert sharing is not None
        self.sharing = sharing
        self.time_s = 100.0
        self.complaints: list[str] = []
        self.follower = Follower(
            sharing.control,
            local=lambda: {rollout.name: rollout for rollout in self.canary.rollouts()},
            adopt=sharing._adopt,
            deliver=sharing._deliver,
            drain=lambda: None,
            complain=lambda _, error, __: self.complaints.append(str(error)),
            last_known=None,
            clock=lambda: self.time_s,
            plan=sharing._keeper,
        )
        self.tick()

    def tick(self, times: int = 4) -> Process:
        for _ in range(times):
            self.time_s += REFRESH_S
            self.follower.tick()
        return self

    def edit(self, content: str) -> Process:
        assert not isinstance(self.source, dict)
        fresh = self.source.with_suffix(".new")
        fresh.write_text(content)
        fresh.replace(self.source)
        return self.tick()

    @property
    def rollout(self) -> Rollout:
        return self.canary.rollout()

    @property
    def note(self) -> str:
        return self.store.alive[self.follower.worker_id].note


class Fleet:
    """Hosts with files of their own, on one store."""

    def __init__(self, folder: Path) -> None:
        self.store = FakeStore()
        self.folder = folder
        self.control = Control(self.store)

    def boot(self, content: str, host: str = "a") -> Process:
        """A process on *host*, where the plan file is *content* now."""
        (self.folder / host).mkdir(exist_ok=True)
        path = self.folder / host / "canary.toml"
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
        return Process(self.store, path)

    def change(self, verb: str, transition: Any) -> None:
        self.control.change("checkout", verb, transition, actor="ada")

    def plans(self) -> list[Event]:
        return [event for event in self.store.events if event.verb == "plan"]

    @property
    def salt(self) -> str:
        return self.control.rollout("checkout").plan.salt


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_processes_with_the_same_plan_have_nothing_to_settle(fleet: Fleet) -> None:
    processes = [fleet.boot(ONE), fleet.boot(ONE), fleet.boot(ONE, "b")]

    assert [event.verb for event in fleet.store.events] == ["register"]
    assert [process.note for process in processes] == ["", "", ""]


def test_of_many_workers_that_read_an_edit_one_writes_it_and_all_follow(fleet: Fleet) -> None:
    workers = [fleet.boot(ONE) for _ in range(4)]
    fleet.change("start", transitions.start)
    workers[0].edit(TWO)
    for _ in range(3):
        for worker in workers:
            worker.tick()

    [event] = fleet.plans()
    assert event.actor == f"plan file ({workers[0].follower.worker_id})"
    assert event.reason.startswith("canary.toml: salt; ")
    assert event.reason.endswith(" % of identities change version; paused")
    assert event.evidence["keys"] == ["salt"]
    assert 17 < event.evidence["moved_percent"] < 19
    for worker in workers:
        found = worker.rollout
        assert (found.phase, found.phase_reason, found.weight_ppm) == ("paused", "config_changed", 100_000)
        assert found.plan.salt == "two"
        assert worker.note == ""


def test_workers_that_race_write_it_once(fleet: Fleet) -> None:
    first, second = fleet.boot(ONE), fleet.boot(ONE)

    def second_is_faster() -> None:
        second.tick(8)

    fleet.store.before_write = second_is_faster
    first.edit(TWO)
    second.tick()

    assert len(fleet.plans()) == 1
    assert first.rollout.plan == second.rollout.plan
    assert fleet.salt == "two"


def test_somebody_who_steers_between_reading_and_settling_is_not_overlooked(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.boot(ONE)
    original = Control.rollout

    def faster(control: Control, name: str) -> Rollout:
        patched.undo()
        fleet.change("rollback", lambda r: transitions.roll_back(r, "errors"))
        return original(control, name)

    with monkeypatch.context() as patched:
        patched.setattr(Control, "rollout", faster)
        worker.edit(TWO)

    assert [event.verb for event in fleet.store.events] == ["register", "rollback", "plan"]
    assert (worker.rollout.phase, worker.rollout.plan.salt) == ("rolled_back", "two")


def test_an_edit_of_later_stages_pauses_nobody(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    fleet.change("start", transitions.start)
    worker.tick().edit(text(stages="[10, 60]"))

    assert worker.rollout.phase == fleet.control.rollout("checkout").phase == "progressing"
    assert [event.reason for event in fleet.plans()] == ["canary.toml: stages[1], stages[2]"]


def test_while_it_is_in_progress_a_process_with_another_plan_serves_the_stores_and_says_so(fleet: Fleet) -> None:
    old = fleet.boot(ONE)
    fleet.change("start", transitions.start)
    new = fleet.boot(TWO, "b")
    for _ in range(5):
        old.tick()
        new.tick()

    assert fleet.plans() == []
    assert new.rollout.plan == old.rollout.plan
    assert new.rollout.phase == "progressing"
    assert old.note == ""
    assert new.note == (
        "canary.toml differs from the store's plan of 'checkout' (salt): the store's stays in force while it is "
        "progressing"
    )
    assert new.canary.plan_problem == new.note


def test_once_it_is_over_the_new_plan_comes_in_once_and_hosts_with_the_old_one_do_not_bring_that_back(
    fleet: Fleet,
) -> None:
    old = fleet.boot(ONE)
    fleet.change("start", transitions.start)
    new = fleet.boot(TWO, "b")
    fleet.change("rollback", lambda r: transitions.roll_back(r, "errors"))
    for _ in range(5):
        old.tick()
        new.tick()
    # A worker of the old host is replaced by another, as gunicorn's max_requests does all day.
    again = fleet.boot(ONE)

    assert [event.reason for event in fleet.plans()] == ["canary.toml: salt; 0 % of identities change version"]
    assert new.note == ""
    assert old.note == again.note
    assert "it is an earlier plan than the store's" in again.note
    assert [process.rollout.phase for process in (old, new, again)] == ["rolled_back"] * 3
    assert fleet.salt == "two"


def test_hosts_with_different_files_come_to_rest(fleet: Fleet) -> None:
    hosts = [fleet.boot(content, name) for content, name in ((ONE, "a"), (TWO, "b"), (THREE, "c"))]
    for _ in range(10):
        for host in hosts:
            host.tick()

    assert len(fleet.plans()) == 2
    assert fleet.salt == "three"
    assert [bool(host.note) for host in hosts] == [True, True, False]


def test_an_edit_that_arrives_late_does_not_bring_an_earlier_plan_back(fleet: Fleet) -> None:
    here, there = fleet.boot(ONE), fleet.boot(ONE, "b")
    fleet.change("start", transitions.start)
    here.tick().edit(TWO).edit(THREE)
    there.edit(TWO)
    assert "differs from the store's plan" in there.note
    there.edit(THREE)
    here.tick()

    assert [event.reason.partition(";")[0] for event in fleet.plans()] == ["canary.toml: salt"] * 2
    assert fleet.salt == here.rollout.plan.salt == there.rollout.plan.salt == "three"
    assert (here.note, there.note) == ("", "")


def test_an_edit_may_be_taken_back(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    fleet.change("start", transitions.start)
    worker.tick().edit(TWO).edit(ONE)

    assert [fleet.salt, len(fleet.plans()), worker.note] == ["checkout", 2, ""]


def test_an_edit_of_another_plan_than_the_one_in_force_waits(fleet: Fleet) -> None:
    fleet.boot(ONE)
    fleet.change("start", transitions.start)
    new = fleet.boot(TWO, "b")
    new.edit(THREE)
    assert fleet.plans() == []
    assert "(salt)" in new.note
    fleet.change("rollback", lambda r: transitions.roll_back(r, "errors"))
    new.tick()

    assert fleet.salt == "three"
    assert new.note == ""


@pytest.mark.parametrize("verb", ["start", "retry"])
def test_a_run_that_the_app_begins_goes_by_the_apps_plan(fleet: Fleet, verb: str) -> None:
    old = fleet.boot(ONE)
    fleet.boot(TWO, "b")
    if verb == "retry":
        fleet.change("rollback", lambda r: transitions.roll_back(r, "errors"))
    old.tick()
    assert fleet.salt == "two"
    changed = getattr(old.canary, verb)(actor="grace")
    old.tick()

    assert (changed.phase, changed.weight_ppm, changed.plan.salt) == ("progressing", 100_000, "checkout")
    assert [(event.verb, event.actor) for event in fleet.store.events[-2:]] == [("plan", "grace"), (verb, "grace")]
    assert old.note == ""


def test_starting_what_is_under_way_brings_no_plan(fleet: Fleet) -> None:
    fleet.boot(ONE)
    fleet.change("start", transitions.start)
    new = fleet.boot(TWO, "b")

    with pytest.raises(TransitionRefused, match="It has been started already"):
        new.canary.start()
    assert fleet.plans() == []


def test_an_app_starts_with_its_plan_in_a_store_that_knows_none(tmp_path: Path) -> None:
    store = FakeStore()
    path = tmp_path / "canary.toml"
    path.write_text(ONE)
    canary = Canary.load(path, store=store, environ={})
    canary.start()

    assert [event.verb for event in store.events] == ["register", "start"]


def test_other_versions_wait_until_the_run_is_over_and_then_begin_a_new_one(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    fleet.change("stage", lambda r: transitions.go_to_stage(r, 2))
    worker.tick().edit(text(stable='"v2"', canary='"v3"'))

    assert worker.rollout.plan.stable == "v1"
    assert worker.note.startswith("canary.toml is not followed: cannot change the versions of 'checkout'")
    reads = fleet.store.calls.count("read")
    worker.tick(8)
    assert fleet.store.calls.count("read") == reads + 8
    fleet.change("promote", transitions.advance)
    worker.tick()
    assert "Roll it back or let it complete first" in worker.note
    fleet.change("promote", transitions.advance)
    worker.tick()
    found = worker.rollout
    assert (found.plan.stable, found.phase, found.weight_ppm) == ("v2", "idle", 0)
    assert worker.canary.version_for("u1") == "v2"
    assert worker.note == ""


def test_a_broken_edit_is_in_the_heartbeat_until_it_is_mended(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    worker.edit("[rollout.checkout]\nweight = ")
    assert str(worker.source) in worker.note
    assert "is no TOML" in worker.note
    worker.edit(ONE)

    assert worker.note == ""
    assert fleet.plans() == []


def test_a_weight_in_the_file_is_a_broken_edit_where_a_store_holds_it(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    worker.edit(text(weight="30"))

    assert worker.note.endswith("`canary set` or the stages of its plan")
    assert worker.rollout.weight_ppm == 0


def test_an_edit_while_the_store_is_away_is_taken_when_it_is_back(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    fleet.change("start", transitions.start)
    worker.tick()
    fleet.store.is_away = True
    worker.edit(TWO)
    assert worker.rollout.phase == "progressing"
    fleet.store.is_away = False
    worker.tick()

    assert (worker.rollout.phase_reason, worker.rollout.plan.salt) == ("config_changed", "two")
    assert len(fleet.plans()) == 1


def test_a_file_that_breaks_while_the_store_is_away_is_known_in_the_process(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    fleet.store.is_away = True
    worker.edit("")

    assert "holds no rollout" in (worker.canary.plan_problem or "")


def test_a_change_whose_answer_was_lost_is_written_once(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    fleet.store.lost_answers = {"write"}
    worker.edit(TWO)

    assert len(fleet.plans()) == 1
    assert worker.rollout.plan.salt == "two"


def test_a_store_that_lost_the_rollout_gets_it_back_before_any_plan_is_settled(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.boot(ONE)
    keeper = worker.sharing._keeper
    original = Control.rollout

    def lost(control: Control, name: str) -> Rollout:
        fleet.store.forget()
        return original(control, name)

    with monkeypatch.context() as patched:
        patched.setattr(Control, "rollout", lost)
        worker.edit(TWO)
    worker.tick()

    assert worker.complaints == []
    assert fleet.salt == worker.rollout.plan.salt == "two"
    assert keeper.note == ""


def test_a_rollout_of_a_new_file_is_registered_and_one_taken_out_keeps_its_state(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    fleet.change("set", lambda r: transitions.set_weight(r, 500_000))
    worker.tick().edit(text("second", endpoints='["GET /new"]'))
    assert worker.canary.rollout("second").is_known

    assert set(fleet.store.records) == {"checkout", "second"}
    assert fleet.control.rollout("checkout").weight_ppm == 500_000
    assert worker.canary.assign("u1", rollout="checkout").reason == "disabled"
    assert "the plan file no longer holds checkout: stable serves there" in worker.note
    fleet.change("set", lambda r: transitions.set_weight(r, 1_000_000))
    worker.tick().edit(ONE)
    assert worker.canary.assign("u1", rollout="checkout").version == "v2"
    assert worker.note.count("checkout") == 0


def test_the_last_state_is_kept_for_a_process_that_starts_with_the_edited_plan(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_STATE_DIR", str(tmp_path / "state"))
    fleet.store.url = "redis://fake"
    worker = fleet.boot(ONE)
    fleet.change("set", lambda r: transitions.set_weight(r, 1_000_000))
    worker.tick().edit(ONE + text("second", endpoints='["GET /new"]'))
    file = worker.sharing._last_known
    assert file is not None
    worker.follower._last_known = file
    worker.tick().edit(ONE + text("second", endpoints='["GET /new"]', salt='"x"'))
    fleet.store.is_away = True
    fresh = Canary.load(worker.source, store=fleet.store, environ={})
    fresh.begin(Head())

    assert fresh.is_canary("u1", rollout="checkout")
    assert fresh.rollout("second").plan.salt == "x"
    fresh.close()


def first_half(request: object) -> str:
    """A key function."""
    return str(request)


def test_all_workers_ask_for_the_same_identity_while_it_is_in_progress(fleet: Fleet) -> None:
    fleet.boot(ONE)
    fleet.change("start", transitions.start)
    new = fleet.boot(text(key='["header:x-account"]'), "b")

    assert [source.spec for source in new.rollout.plan.key] == ["header:x-user"]
    assert "(key)" in new.note
    [source] = new.canary._sources["checkout"]
    assert source.spec == "header:x-user"


def test_a_key_function_is_asked_where_the_app_has_it_and_elsewhere_ones_own_key(fleet: Fleet) -> None:
    fields = {"stages": [10], "key": [first_half, "user"]}
    app = Process(fleet.store, {"rollout": {"checkout": fields}})
    fleet.change("start", transitions.start)
    app.tick()
    other = Process(fleet.store, {"rollout": {"checkout": {**fields, "key": ["user"]}}})

    assert app.rollout.plan.key == app.canary.declared("checkout").key
    assert app.note == ""
    assert [source.spec for source in other.rollout.plan.key] == ["user"]
    assert other.note.startswith("the app's plan differs from the store's plan of 'checkout'")


def test_a_record_of_a_release_that_kept_no_keys_is_served_by_ones_own(fleet: Fleet) -> None:
    worker = fleet.boot(ONE)
    record = to_record(transitions.start(worker.rollout))
    del record["declared"], record["plan"]["key"]
    fleet.store.set_back(record)
    worker.tick()

    assert worker.rollout.phase == "progressing"
    assert [source.spec for source in worker.rollout.plan.key] == ["header:x-user"]
    assert fleet.plans() == []


def test_endpoints_added_at_run_time_are_no_difference_and_survive_an_edit(fleet: Fleet) -> None:
    worker = fleet.boot(text(endpoints='["GET /a"]'))
    worker.canary.add_endpoint("GET /b")
    other = fleet.boot(text(endpoints='["GET /a"]'), "b")
    assert (worker.tick().note, other.note, fleet.plans()) == ("", "", [])
    worker.edit(text(endpoints='["GET /a"]', fallback='"never"'))
    other.tick()

    assert other.rollout.plan.endpoints == ("GET /a", "GET /b")
    assert other.rollout.plan.fallback == "never"


def test_the_order_of_several_canaries_is_part_of_the_plan(fleet: Fleet) -> None:
    shares = {"v3": 50, "v2": 50}
    app = Process(fleet.store, {"rollout": {"checkout": {"canary": shares}}})
    other = Process(fleet.store, {"rollout": {"checkout": {"canary": shares}}})

    assert app.rollout.plan.canaries == other.rollout.plan.canaries == (("v3", 500_000), ("v2", 500_000))
    assert fingerprint(app.rollout.plan) == app.rollout.declared


def test_a_keeper_whose_canary_is_gone_does_nothing(fleet: Fleet) -> None:
    keeper = PlanKeeper(Canary("checkout", environ={}), fleet.control, Edits(None))
    gc.collect()
    keeper.look()
    keeper.settle("w", lambda _: pytest.fail("nothing was settled"))
    keeper.bring("checkout", "ada")

    assert keeper.note == ""
    assert fleet.store.calls == []


def test_a_store_that_goes_away_while_a_plan_is_settled_is_asked_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.boot(ONE)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("it does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(fleet.store, "write", away)
        worker.edit(TWO)
    worker.tick()

    assert "it does not answer" in worker.complaints
    assert fleet.salt == worker.rollout.plan.salt == "two"
