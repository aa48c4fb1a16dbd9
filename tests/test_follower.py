"""One process in step with its store, round by round: the clock is ours and there is no thread."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.records import from_record, to_record
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.schema import parse
from canary_middleware._serving.follower import BEAT_S, FLUSH_S, MAX_BACKOFF_S, REFRESH_S, Follower
from canary_middleware._serving.last_known import LastKnownFile
from canary_middleware.errors import StaleRevision, StoreUnavailable
from canary_middleware.stores.changes import Control
from tests.support.fake_store import FakeStore
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PLAN = parse({"rollout": {"checkout": {}}}).rollouts[0]


class Process:
    """What a follower follows for: rollouts, counts to give, and the complaints that it heard."""

    def __init__(self, store: FakeStore, last_known: LastKnownFile | None = None, name: str = "checkout") -> None:
        self.store = store
        self.control = Control(store)
        plan = PLAN._replace(name=name)
        self.rollouts = {name: Rollout(plan=plan, is_known=False)}
        self.counts: list[Mapping[str, Any]] = []
        self.complaints: list[tuple[str, str, str]] = []
        self.owed: list[str] = []
        self.owed_of: set[str] = set()
        self.time_s = 100.0
        self.luck = 1.0
        self.follower = Follower(
            self.control,
            local=lambda: self.rollouts,
            adopt=self.rollouts.update,
            deliver=self.deliver,
            owed=lambda: self.owed_of,
            drain=lambda: self.counts.pop(0) if self.counts else None,
            complain=lambda part, error, consequence: self.complaints.append((part, str(error), consequence)),
            last_known=last_known,
            clock=lambda: self.time_s,
            jitter=lambda: self.luck,
        )

    def deliver(self) -> None:
        while self.owed:
            self.control.change("checkout", "set", to(int(self.owed.pop())), actor="app")

    def tick(self, times: int = 1, *, after_s: float = REFRESH_S) -> float:
        pause = 0.0
        for _ in range(times):
            self.time_s += after_s
            self.store.time_s += after_s
            pause = self.follower.tick()
        return pause

    @property
    def weight(self) -> int:
        return self.rollouts["checkout"].weight_ppm

    @property
    def is_known(self) -> bool:
        return self.rollouts["checkout"].is_known

    def worker(self) -> Any:
        return self.store.alive[self.follower.worker_id]


def to(percent: int) -> partial[Rollout]:
    return partial(transitions.set_weight, weight_ppm=percent * 10_000)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def process(store: FakeStore) -> Process:
    """A process that has registered its rollout and read it back."""
    process = Process(store)
    process.tick(2)
    return process


def test_a_first_process_registers_its_rollout_and_then_serves_what_the_store_holds(store: FakeStore) -> None:
    process = Process(store)

    process.tick()
    was_known = process.is_known
    assert not was_known
    assert [(event.verb, event.reason) for event in store.events] == [("register", "first seen")]
    process.tick()
    assert process.is_known
    assert process.follower.has_read.is_set()
    assert process.complaints == []


def test_what_was_just_put_there_is_read_back_at_once(store: FakeStore) -> None:
    process = Process(store)
    before = process.tick(), process.follower.has_read.is_set()
    after = process.tick(after_s=0.0), process.follower.has_read.is_set()

    assert (before, after) == ((0.0, False), (REFRESH_S, True))
    assert process.is_known


def test_processes_that_are_in_each_others_way_do_not_spin(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def faster(*_: object, **__: object) -> None:
        raise StaleRevision("another was first")

    monkeypatch.setattr(store, "write", faster)
    process = Process(store)
    pauses = [process.tick() for _ in range(10)]

    assert pauses == [0.0] * 4 + [REFRESH_S] * 6
    assert process.follower.has_read.is_set()


def test_a_second_process_adopts_what_is_there(process: Process, store: FakeStore) -> None:
    process.control.change("checkout", "set", to(30), actor="ada")
    other = Process(store)
    other.tick()

    assert other.weight == 300_000
    assert [event.verb for event in store.events] == ["register", "set"]


def test_a_change_in_the_store_is_served_after_the_next_reading(process: Process) -> None:
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()

    assert process.weight == 300_000
    assert process.worker().revisions == {"checkout": 1}


def test_what_has_not_changed_is_adopted_once(process: Process, store: FakeStore) -> None:
    process.tick()
    process.rollouts["checkout"] = process.rollouts["checkout"]._replace(phase_reason="mine")
    process.tick(10)

    assert process.rollouts["checkout"].phase_reason == "mine"


def test_of_many_rollouts_only_those_that_changed_are_read_anew(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(store)
    process.rollouts.clear()
    process.rollouts.update({n: Rollout(plan=PLAN._replace(name=n), is_known=False) for n in ("a", "b", "c")})
    process.tick(2)
    read: list[str] = []

    def reading(record: Mapping[str, Any]) -> Rollout:
        read.append(record["name"])
        return from_record(record)

    monkeypatch.setattr("canary_middleware._serving.follower.from_record", reading)
    process.control.change("b", "set", to(30), actor="ada")
    process.tick()

    assert read == ["b"]
    assert [rollout.weight_ppm for rollout in process.rollouts.values()] == [0, 300_000, 0]


def test_a_store_that_lost_everything_gets_it_back(process: Process, store: FakeStore) -> None:
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()
    store.forget()
    process.tick(2)

    assert process.control.rollout("checkout").weight_ppm == process.weight == 300_000
    assert store.events[-1].reason == "the store had lost it"


def test_a_store_that_came_back_older_is_brought_forward(process: Process, store: FakeStore) -> None:
    old = to_record(process.control.rollout("checkout"))
    process.control.change("checkout", "rollback", partial(transitions.roll_back, trigger="errors"), actor="ada")
    process.tick()
    store.set_back(old)
    process.tick(2)

    assert process.control.rollout("checkout").phase == process.rollouts["checkout"].phase == "rolled_back"
    assert (store.events[-1].verb, store.events[-1].reason) == ("restore", "the store held an older state")


def test_what_is_owed_is_not_put_there_in_passing(process: Process, store: FakeStore) -> None:
    process.rollouts["checkout"] = transitions.roll_back(process.rollouts["checkout"], "errors")
    process.owed_of = {"checkout"}
    store.generation += 1
    before = process.tick(), store.events[-1].verb
    process.owed_of = set()
    process.tick()

    assert before == (0.0, "register")
    assert store.events[-1].verb == "restore"


def test_a_rollback_that_a_failover_lost_wins_over_what_stands_in_its_place(process: Process, store: FakeStore) -> None:
    before = to_record(process.control.rollout("checkout"))
    process.control.change("checkout", "rollback", partial(transitions.roll_back, trigger="errors"), actor="ada")
    process.tick()
    store.set_back(before)
    process.control.change("checkout", "set", to(80), actor="bob")
    process.tick(2)

    held = process.control.rollout("checkout")
    assert (held.phase, held.revision) == ("rolled_back", 2)
    assert process.rollouts["checkout"].phase == "rolled_back"
    assert store.events[-1].verb == "restore"


def test_when_another_process_restores_first_its_state_is_taken(process: Process, store: FakeStore) -> None:
    old = to_record(process.control.rollout("checkout"))
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()
    store.set_back(old)

    def someone_is_faster() -> None:
        Control(store).change("checkout", "set", to(60), actor="grace")

    store.before_write = someone_is_faster
    process.tick(2)

    assert process.weight == process.control.rollout("checkout").weight_ppm == 600_000
    assert process.complaints == []


def test_of_two_processes_that_register_at_once_one_does(store: FakeStore) -> None:
    process, other = Process(store), Process(store)

    def someone_is_faster() -> None:
        other.tick()

    store.before_write = someone_is_faster
    process.tick(2)
    other.tick()

    assert [event.verb for event in store.events] == ["register"]
    assert process.rollouts["checkout"].is_known
    assert other.rollouts["checkout"].is_known


def test_the_last_weights_stay_while_the_store_is_away(process: Process, store: FakeStore) -> None:
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()
    store.is_away = True
    process.tick(after_s=3.0)

    assert process.weight == 300_000
    assert process.follower.stale_s == 3.0
    assert process.complaints == [
        ("store", "memory:fake does not answer", "the last known weights stay in force, and nothing advances")
    ]
    store.is_away = False
    process.tick()
    assert process.follower.stale_s == 0.0


def test_a_process_that_starts_without_the_store_waits_no_longer_than_the_first_answer(store: FakeStore) -> None:
    process = Process(store)
    store.is_away = True
    process.tick()

    assert process.follower.has_read.is_set()
    assert not process.rollouts["checkout"].is_known


def test_it_asks_a_store_that_is_away_ever_less_often_and_not_in_step_with_the_others(
    process: Process, store: FakeStore
) -> None:
    store.is_away = True

    assert [process.tick() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    process.luck = 0.0
    assert process.tick(100) == MAX_BACKOFF_S / 2
    store.is_away = False
    assert process.tick() == REFRESH_S
    store.is_away = True
    assert process.tick() == 0.25


def test_whatever_goes_wrong_a_round_ends_and_the_next_one_comes(process: Process, store: FakeStore) -> None:
    process.owed = ["no number"]
    assert process.tick() > 0
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()

    assert process.weight == 300_000
    assert [part for part, _, _ in process.complaints] == ["store"]


def test_a_store_that_takes_nothing_is_followed_all_the_same(
    process: Process, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        for name in ("beat", "add_counts", "leave"):
            patched.setattr(store, name, full)
        process.counts = [{"n": {"s": 1.0}}]
        process.owed = ["no number"]
        pauses = [process.tick(after_s=FLUSH_S)]
        process.control.change("checkout", "set", to(30), actor="ada")
        pauses += [process.tick(), process.tick(after_s=FLUSH_S)]
        served = process.weight
    process.tick(after_s=FLUSH_S)

    assert (served, pauses) == (300_000, [REFRESH_S] * 3)
    assert {consequence for _, _, consequence in process.complaints} == {"this worker follows, and is not heard"}
    assert process.worker().revisions == {"checkout": 1}
    assert [counts for _, _, _, counts in store.flushes] == [{"n": {"s": 1.0}}]


def test_what_is_owed_is_delivered_before_the_state_is_read(process: Process) -> None:
    process.owed = ["70"]
    process.tick()

    assert process.weight == 700_000


@pytest.mark.parametrize(
    "damage", [{"schema": 99}, {"schema": None}, {"plan": None}, {"plan": {"stable": 7}}, {"weight_ppm": "90"}]
)
def test_a_state_that_cannot_be_read_leaves_the_last_good_one_and_says_so(
    process: Process, store: FakeStore, damage: dict[str, Any]
) -> None:
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()
    good = dict(store.records["checkout"])
    store.set_back({**good, **damage})
    process.tick(2)

    assert process.weight == 300_000
    assert [(part, consequence) for part, _, consequence in process.complaints] == [
        ("state of checkout", "the last good state stays in force")
    ]
    process.tick(after_s=BEAT_S)
    assert process.worker().note == process.complaints[0][1]
    store.set_back(good)
    process.tick(after_s=BEAT_S)
    assert process.worker().note == ""


def test_a_worker_says_every_two_seconds_that_it_lives(process: Process, store: FakeStore) -> None:
    store.calls.clear()
    process.tick(int(2 * BEAT_S / REFRESH_S))

    assert store.calls.count("beat") == 2
    worker = process.worker()
    assert (worker.revisions, worker.stale_s, worker.note) == ({"checkout": 0}, 0.0, "")
    assert worker.id.split(":")[:2] == [worker.host, str(worker.pid)]


def test_two_followers_are_two_workers(store: FakeStore) -> None:
    for process in (Process(store), Process(store)):
        process.tick(2)

    assert len(store.alive) == 2


def test_counts_are_handed_over_once_a_second_under_the_stores_time(process: Process, store: FakeStore) -> None:
    process.counts = [{"n": {"s": 1.0}}, {"n": {"s": 2.0}}]
    process.tick(after_s=FLUSH_S)
    process.tick(after_s=FLUSH_S / 4)
    assert len(store.flushes) == 1
    process.tick(3, after_s=FLUSH_S / 4)

    me = process.follower.worker_id
    assert store.flushes[0] == (me, 1, int(store.time_s - FLUSH_S), {"n": {"s": 1.0}})
    assert store.flushes[1] == (me, 2, int(store.time_s), {"n": {"s": 2.0}})
    process.tick(after_s=FLUSH_S)
    assert len(store.flushes) == 2


def test_counts_whose_answer_was_lost_are_sent_again_under_their_number_and_count_once(
    process: Process, store: FakeStore
) -> None:
    process.counts = [{"n": {"s": 1.0}}, {"n": {"s": 2.0}}]
    store.lost_answers = {"add_counts"}
    process.tick(after_s=FLUSH_S)
    process.tick(after_s=FLUSH_S)

    assert store.calls.count("add_counts") == 3
    assert [(sequence, counts) for _, sequence, _, counts in store.flushes] == [
        (1, {"n": {"s": 1.0}}),
        (2, {"n": {"s": 2.0}}),
    ]


def test_counts_wait_while_the_store_is_away(process: Process, store: FakeStore) -> None:
    process.counts = [{"n": {"s": 1.0}}]
    store.is_away = True
    process.tick(5, after_s=FLUSH_S)
    store.is_away = False
    process.tick(after_s=FLUSH_S)

    assert [counts for _, _, _, counts in store.flushes] == [{"n": {"s": 1.0}}]


def test_counts_are_not_taken_where_the_stores_time_cannot_be_had(
    process: Process, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> float:
        raise TimeoutError

    process.counts = [{"n": {"s": 1.0}}]
    with monkeypatch.context() as patched:
        patched.setattr(store, "now", away)
        process.tick(after_s=FLUSH_S)
    process.tick(after_s=FLUSH_S)

    assert [counts for _, _, _, counts in store.flushes] == [{"n": {"s": 1.0}}]


def test_what_the_store_held_is_on_disk_for_the_next_process(store: FakeStore, tmp_path: Path) -> None:
    file = LastKnownFile(tmp_path / "last.json")
    Process(store, name="foreign").tick(2)
    process = Process(store, file)
    process.tick(2)
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()

    found = file.load()
    assert found is not None
    assert 0 <= time.time() - found.saved_s < 60
    assert {name: record["weight_ppm"] for name, record in found.records.items()} == {"checkout": 300_000}


def test_a_record_that_cannot_be_read_leaves_the_last_good_one_on_disk(store: FakeStore, tmp_path: Path) -> None:
    file = LastKnownFile(tmp_path / "last.json")
    process = Process(store, file)
    process.tick(2)
    process.control.change("checkout", "set", to(30), actor="ada")
    process.tick()
    store.set_back({**store.records["checkout"], "schema": 99, "weight_ppm": 900_000})
    process.tick()

    found = file.load()
    assert found is not None
    assert [(record["schema"], record["weight_ppm"]) for record in found.records.values()] == [(1, 300_000)]


def test_a_disk_that_is_full_is_complained_of_and_nothing_else_changes(store: FakeStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = Process(store, LastKnownFile(tmp_path / "file" / "last.json"))

    assert process.tick(2) == REFRESH_S
    assert process.rollouts["checkout"].is_known
    assert [(part, consequence) for part, _, consequence in process.complaints] == [
        ("last-known file", "a worker that starts without the store will serve stable")
    ]


def test_a_running_follower_reads_again_by_itself(store: FakeStore) -> None:
    process = Process(store)
    process.follower.start()
    try:
        eventually(lambda: process.is_known)
    finally:
        process.follower.stop(10)


def test_stopping_hands_over_the_last_counts_and_says_good_bye(store: FakeStore) -> None:
    process = Process(store)
    process.follower.start()
    assert process.follower.has_read.wait(10)
    process.counts.append({"n": {"s": 1.0}})
    process.follower.stop(10)

    assert [counts for _, _, _, counts in store.flushes] == [{"n": {"s": 1.0}}]
    assert store.calls[-2:] == ["leave", "close"]
    assert store.alive == {}


def test_stopping_without_the_store_says_what_is_lost_and_ends(store: FakeStore) -> None:
    process = Process(store)
    process.follower.start()
    assert process.follower.has_read.wait(10)
    store.is_away = True
    process.follower.stop(10)

    assert store.calls[-1] == "close"
    assert process.complaints[-1][2] == "what it has not been told yet is lost, such as the last counts"


def test_a_follower_that_never_started_stops_at_once(store: FakeStore) -> None:
    Process(store).follower.stop(10)

    assert store.calls == []
