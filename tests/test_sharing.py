"""Canaries on one store: what is changed in one is served by all, and a rollback waits for nobody."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest

from canary_middleware import Canary
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.records import to_record
from canary_middleware._serving.last_known import LastKnownFile
from canary_middleware._store_link import Sharing, _stop
from canary_middleware.errors import ConfigError, StoreUnavailable, TransitionRefused
from canary_middleware.stores.changes import Control
from tests.core.heads import Head
from tests.support.fake_store import FakeStore
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def make(store: FakeStore) -> Iterator[Callable[..., Canary]]:
    """Makes a Canary on the store; all are closed in the end."""
    made: list[Canary] = []

    def make(place: FakeStore = store, **fields: Any) -> Canary:
        canary = Canary("checkout", key=["header:x-user"], store=place, environ={}, **fields)
        made.append(canary)
        return canary

    yield make
    for canary in made:
        canary.close()


def request(canary: Canary, user: str = "u1") -> str:
    """One request served; returns why it got its version."""
    exchange = canary.begin(Head(headers={"x-user": user}))
    assert exchange is not None
    exchange.status = 200
    exchange.finish()
    return exchange.assignment.reason


def served(canary: Canary) -> int:
    return sum(canary.counts.snapshot().ended.values())


def follow(canary: Canary) -> Canary:
    """*canary*, following its store and settled."""
    request(canary)
    eventually(lambda: canary.rollout().is_known)
    return canary


def test_until_the_store_has_been_read_everybody_gets_stable(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make()
    store.is_away = True

    assert (canary.assign("u1").reason, canary.assign("u1").role) == ("unknown", "stable")
    assert request(canary) == "unknown"
    store.is_away = False
    eventually(lambda: request(canary) != "unknown")


def test_the_first_requests_of_a_process_are_served_by_what_the_store_holds(make: Callable[..., Canary]) -> None:
    follow(make()).set_weight(100)
    canary = make()
    with ThreadPoolExecutor(4) as pool:
        reasons = list(pool.map(lambda n: request(canary, f"u{n}"), range(20)))

    assert set(reasons) == {"weight"}


def test_a_process_may_start_in_the_middle_of_a_change(
    make: Callable[..., Canary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    canary = make(FakeStore("redis://fake"))
    sharing, is_starting = canary.sharing, threading.Event()
    assert sharing is not None

    def remember(_: Canary) -> None:
        is_starting.set()
        sharing._adopt({})

    monkeypatch.setattr(sharing, "_remember", remember)

    def change() -> None:
        with sharing._serving:
            threads[0].start()
            is_starting.wait(10)
            canary.serve(canary.rollout()._replace(weight_ppm=10_000))

    threads = [threading.Thread(target=lambda: request(canary), daemon=True)]
    threads.append(threading.Thread(target=change, daemon=True))
    threads[1].start()
    threads[1].join(10)
    threads[0].join(10)

    assert [thread.is_alive() for thread in threads] == [False, False]


def test_a_weight_set_in_one_reaches_the_other(make: Callable[..., Canary]) -> None:
    here, there = follow(make()), follow(make())
    here.set_weight(100, actor="ada", reason="go")

    assert here.assign("u1").is_canary
    eventually(lambda: there.assign("u1").is_canary)
    assert there.rollout() == here.rollout()


def test_a_weight_can_be_set_before_the_first_request(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make()
    canary.set_weight(25)

    assert Control(store).rollout("checkout").weight_ppm == canary.rollout().weight_ppm == 250_000
    assert [event.verb for event in store.events] == ["register", "set"]


def test_a_rollback_while_the_store_is_away_is_in_force_at_once_and_told_when_it_is_back(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    here, there = follow(make()), follow(make())
    here.set_weight(100)
    eventually(lambda: there.assign("u1").is_canary)
    store.is_away = True
    changed = here.roll_back(actor="ada", reason="errors")

    assert (changed.phase, here.assign("u1").reason) == ("rolled_back", "rolled_back")
    assert there.assign("u1").is_canary
    store.is_away = False
    eventually(lambda: there.assign("u1").reason == "rolled_back", timeout=20)
    assert (store.events[-1].actor, store.events[-1].verb) == ("ada", "rollback")
    assert ("store", "StoreUnavailable") in here.internal_errors()


def test_everything_but_a_rollback_needs_the_store(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = follow(make())
    store.is_away = True

    with pytest.raises(StoreUnavailable):
        canary.set_weight(100)
    assert canary.rollout().weight_ppm == 0


def test_a_latch_set_and_lifted_while_the_store_was_away_is_told_in_that_order(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    canary = make()
    canary.set_weight(50)
    store.is_away = True
    canary.emergency()
    canary.emergency(on=False)
    store.is_away = False
    canary.roll_back(reason="the third")

    assert [event.verb for event in store.events[-3:]] == ["emergency", "emergency", "rollback"]
    assert Control(store).rollout("checkout").phase == canary.rollout().phase == "rolled_back"
    assert canary.rollout().revision == Control(store).rollout("checkout").revision


def test_a_rollback_survives_a_store_that_came_back_empty(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = follow(make())
    canary.set_weight(100)
    store.is_away = True
    canary.roll_back(reason="errors")
    store.forget()
    store.is_away = False

    eventually(lambda: store.records.get("checkout", {}).get("phase") == "rolled_back", timeout=20)
    assert canary.rollout().phase == "rolled_back"


def test_a_rollback_over_a_record_that_nobody_can_read_is_owed_until_it_is_mended(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    canary = make()
    canary.set_weight(100)
    good = dict(store.records["checkout"])
    store.set_back({**good, "schema": 99})
    canary.roll_back(reason="errors")

    assert canary.assign("u1").reason == "rolled_back"
    store.set_back({**good, "revision": 9})
    follow(canary)
    eventually(lambda: store.records["checkout"]["phase"] == "rolled_back", timeout=20)
    assert canary.rollout().phase == "rolled_back"


def test_what_the_store_is_beyond_is_no_longer_owed(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make()
    canary.set_weight(50)
    canary.emergency()
    Control(store).change("checkout", "emergency", transitions.unlock, actor="grace")
    canary.emergency(on=False)

    assert canary.rollout().phase == "rolled_back"
    canary.retry()
    assert canary.rollout().phase == Control(store).rollout("checkout").phase == "idle"


def test_a_change_that_is_refused_here_is_not_owed(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make()
    canary.set_weight(50)

    with pytest.raises(TransitionRefused, match="It is not locked"):
        canary.emergency(on=False)
    assert canary.set_weight(60).weight_ppm == 600_000


def test_a_reading_that_is_older_than_our_own_change_is_not_served(store: FakeStore) -> None:
    canary = Canary("checkout", environ={})
    sharing = Sharing(canary, store)
    older = sharing.change("checkout", "set", lambda r: transitions.set_weight(r, 500_000), "ada", "")
    sharing.change("checkout", "rollback", lambda r: transitions.roll_back(r, "errors"), "ada", "")
    sharing._adopt({"checkout": older})

    assert canary.rollout().phase == "rolled_back"


def test_closing_hands_over_the_last_counts(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = follow(make())
    for n in range(5):
        request(canary, f"u{n}")
    canary.close()

    handed = Sharing(Canary("checkout", environ={}), store).counted("checkout")[0]
    assert sum(cell.count for cell in handed.values()) == served(canary) == 6
    assert store.alive == {}


def test_the_fleets_counts_are_those_of_all_processes_and_none_twice(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    here, there = follow(make()), follow(make())
    for _ in range(7):
        request(here)
        request(there)
    there.close()
    total = here._sharing
    assert total is not None

    def everything() -> int:
        return sum(cell.count for cell in total.counted("checkout")[0].values())

    eventually(lambda: everything() == served(here) + served(there) == 16)


def test_the_summary_is_the_fleets_and_our_own_while_the_store_is_away(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    here, there = follow(make()), follow(make())
    for _ in range(7):
        request(there)
    there.close()

    fleet = here.metrics_summary()["legacy"]["request_count"]
    endpoints = sum(one["legacy"]["request_count"] for one in here.endpoint_metrics().values())
    store.is_away = True

    assert (fleet, endpoints) == (9, 9)
    assert here.metrics_summary()["legacy"]["request_count"] == served(here) == 1


def test_the_summary_begins_with_the_last_start(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = follow(make())
    request(canary)
    old = int(store.now()) - 10
    store.add_counts(
        "earlier", 1, old, {'["checkout","v1","stable","weight","GET",200,null,null,false]': {"s": 1, "9": 5}}
    )

    assert canary.metrics_summary()["legacy"]["request_count"] == 2


def test_a_weight_in_the_plan_is_refused_where_a_store_holds_it(store: FakeStore) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.checkout\.weight .* leave it out.*`canary set`"):
        Canary("checkout", weight=10, store=store, environ={})


def test_a_process_that_starts_without_the_store_serves_the_last_weights(
    make: Callable[..., Canary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    shared = FakeStore("redis://fake")
    first = follow(make(shared))
    first.set_weight(100)
    eventually(lambda: any('"weight_ppm\\":1000000' in path.read_text() for path in tmp_path.rglob("*.json")))
    first.close()
    shared.is_away = True
    second = make(shared)

    assert request(second) == "weight"
    assert second.assign("u1").is_canary


def test_a_rollback_that_the_store_has_not_heard_of_outlives_the_process(
    make: Callable[..., Canary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    shared = FakeStore("redis://fake")
    killed = follow(make(shared))
    killed.set_weight(100)
    shared.is_away = True
    killed.roll_back(actor="ada", reason="errors")
    # As SIGKILL leaves it: nothing is handed over, and what was owed is forgotten.
    assert killed.sharing is not None
    killed.sharing._owed.clear()
    killed.close()
    heir = make(shared)
    reason = request(heir)
    shared.is_away = False

    assert reason == "rolled_back"
    eventually(lambda: Control(shared).rollout("checkout").phase == "rolled_back")


def test_a_canary_that_nobody_holds_stops_following(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = follow(Canary("checkout", key=["header:x-user"], store=store, environ={}))
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "canary-follower"]
    del canary
    gc.collect()

    thread.join(10)
    assert not thread.is_alive()
    assert store.calls[-1] == "close"


def test_a_last_state_that_cannot_be_read_means_stable(
    make: Callable[..., Canary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    shared = FakeStore("redis://fake")
    record = {**to_record(Canary("checkout", environ={}).rollout()), "schema": 99}
    LastKnownFile.beside(shared.url, ["checkout"]).save({"checkout": record}, 1.0)
    shared.is_away = True
    canary = make(shared)

    assert request(canary) == "unknown"
    assert ("last-known state of checkout", "NewerSchema") in canary.internal_errors()


def test_without_a_follower_the_state_is_never_stale(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make()
    assert canary.snapshot_age_s() == 0.0
    follow(canary)
    store.is_away = True

    eventually(lambda: canary.snapshot_age_s() > 0.3)


def test_an_emergency_stops_every_rollout_before_the_store_hears_of_the_first(store: FakeStore) -> None:
    canary = Canary.load({"rollout": {f"feature-{n}": {} for n in range(5)}}, store=store, environ={})
    phases: list[set[str]] = []

    def read(known: int | None = None) -> None:
        phases.append({rollout.phase for rollout in canary.rollouts()})
        raise StoreUnavailable("it hangs, and then it fails")

    store.read = read  # type: ignore[method-assign, assignment]
    canary.emergency(actor="ada")

    assert phases == [{"locked"}]


def test_a_canary_that_serves_on_after_closing_follows_and_counts_on(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    canary, other = follow(make()), follow(make())
    for n in range(3):
        request(canary, f"u{n}")
    canary.close()
    assert len(store.alive) == 1

    for n in range(4):
        request(canary, f"u{n}")
    other.set_weight(100)

    eventually(lambda: canary.rollout().weight_ppm == 1_000_000)
    assert len(store.alive) == 2
    canary.close()
    other.close()
    total = Sharing(Canary("checkout", environ={}), store).counted("checkout")[0]
    assert sum(cell.count for cell in total.values()) == served(canary) + served(other)


def test_a_canary_that_is_gone_is_followed_for_nobody(store: FakeStore) -> None:
    sharing = Sharing(Canary("checkout", environ={}), store)
    gc.collect()
    sharing.start()
    sharing._adopt({})
    sharing._deliver()

    assert sharing.stale_s == 0.0
    assert (sharing._mine(), sharing._drain()) == ((), None)
    assert sharing.counted("checkout")[0] == {}
    assert store.calls == ["history", "counts"]


def test_a_fork_leaves_what_its_parent_owes_to_the_parent(store: FakeStore) -> None:
    canary = Canary("checkout", environ={})
    sharing = Sharing(canary, store)
    sharing.start()
    parents = sharing._follower
    assert parents is not None
    parents.stop(10)
    store.is_away = True
    sharing.change("checkout", "rollback", lambda r: transitions.roll_back(r, "errors"), "ada", "")
    with sharing._delivering:  # held by a thread that the fork does not have
        sharing.start(is_fork=True)
        store.is_away = False
        sharing.change("checkout", "emergency", transitions.lock, "ada", "")
    sharing.stop(10)

    assert "rollback" not in [event.verb for event in store.events]
    assert store.events[-1].verb == "emergency"


def test_a_process_that_ends_without_closing_hands_over_its_counts(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    canary = follow(make())
    request(canary)
    sharing = canary._sharing
    assert sharing is not None
    assert sharing._follower is not None
    _stop(ref(sharing._follower))

    assert store.alive == {}
    assert sum(cell.count for cell in sharing.counted("checkout")[0].values()) == served(canary)


def test_a_follower_that_is_gone_needs_no_stopping(store: FakeStore) -> None:
    sharing = Sharing(Canary("checkout", environ={}), store)
    gone = ref(sharing)
    del sharing

    assert gone() is None
    _stop(gone)  # type: ignore[arg-type]
