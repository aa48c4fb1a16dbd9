"""What is changed: exactly what was asked for, once, and told as it was."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from canary_middleware import Canary
from canary_middleware._core.lifecycle import transitions
from canary_middleware._views.acknowledged import wait_for_workers
from canary_middleware.admin import create_app
from canary_middleware.errors import StaleRevision
from canary_middleware.stores.changes import Control
from tests.support.fake_store import FakeStore

from .conftest import TOKEN, ask, make

SETTERS = 8


@pytest.mark.parametrize("has_store", [False, True], ids=["in memory", "sqlite"])
def test_of_many_who_decide_on_one_state_one_wins_and_the_others_are_told(has_store: bool, stored: Canary) -> None:
    app = create_app(stored if has_store else make(), token=TOKEN)
    ready = threading.Barrier(SETTERS)

    def set_to(weight: int) -> tuple[int, Any]:
        ready.wait(10)
        return ask(app, "POST", "/set", {"weight": weight, "revision": 0})

    with ThreadPoolExecutor(SETTERS) as pool:
        answers = list(pool.map(set_to, range(1, SETTERS + 1)))

    assert sorted(status for status, _ in answers) == [200] + [409] * (SETTERS - 1)
    (winner,) = (document for status, document in answers if status == 200)
    assert ask(app, "GET", "/status")[1]["weight"] == winner["weight"]
    if has_store:
        assert [row["verb"] for row in ask(app, "GET", "/history")[1]] == ["set", "register"]


@pytest.mark.parametrize("has_store", [False, True], ids=["in memory", "sqlite"])
@pytest.mark.parametrize("verb", ["/rollback", "/emergency"])
def test_what_stops_is_carried_out_whatever_its_author_had_seen(verb: str, has_store: bool, stored: Canary) -> None:
    app = create_app(stored if has_store else make(), token=TOKEN)
    ask(app, "POST", "/set", {"weight": 50, "revision": 0})

    assert ask(app, "POST", verb, {"revision": 0})[0] == 200
    assert ask(app, "GET", "/status")[1]["weight"] == 0


def test_an_emergency_stops_what_this_worker_takes_to_be_stopped_already(stored: Canary) -> None:
    app = create_app(stored, token=TOKEN)
    ask(app, "POST", "/set", {"weight": 50, "revision": 0})
    stored.serve(transitions.lock(stored.rollout()))  # as it was, before somebody let it go
    control = Control(stored.store)  # type: ignore[arg-type]
    assert control.rollout("checkout").phase == "paused"

    ask(app, "POST", "/emergency")

    assert control.rollout("checkout").phase == "locked"


def test_an_emergency_is_lifted_that_this_worker_has_not_heard_of(stored: Canary) -> None:
    app = create_app(stored, token=TOKEN)
    ask(app, "POST", "/set", {"weight": 50, "revision": 0})
    control = Control(stored.store)  # type: ignore[arg-type]
    control.change("checkout", "emergency", transitions.lock, actor="another worker")
    assert stored.rollout().phase == "paused"

    status, (result,) = ask(app, "POST", "/emergency", {"state": "off", "reason": "over"})

    assert (status, result["phase"], result["weight"]) == (200, "rolled_back", 0)
    assert control.rollout("checkout").phase == "rolled_back"


def two_rollouts() -> Canary:
    fields: dict[str, Any] = {"stable": "v1", "canary": "v2", "stages": [10, 100]}
    plan = {
        "schema": 1,
        "rollout": {
            "search": {**fields, "endpoints": ["GET /search"]},
            "checkout": {**fields, "endpoints": ["GET /checkout"]},
        },
    }
    return Canary.load(plan, environ={}, store=FakeStore())


def test_no_rollout_waits_in_an_emergency_for_the_workers_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = two_rollouts()
    seen: list[list[str]] = []

    def waits(*args: Any, **options: Any) -> Any:
        seen.append([rollout.phase for rollout in canary.rollouts()])
        return wait_for_workers(*args, **options)

    monkeypatch.setattr("canary_middleware.admin.verbs.wait_for_workers", waits)
    assert ask(create_app(canary, token=TOKEN), "POST", "/emergency", {"wait": 5})[0] == 200
    canary.close()

    assert seen == [["locked", "locked"], ["locked", "locked"]]


def test_an_emergency_for_one_rollout_is_refused_because_it_stops_them_all() -> None:
    canary = two_rollouts()

    status, problem = ask(create_app(canary, token=TOKEN), "POST", "/emergency", {"rollout": "search"})
    phases = {rollout.phase for rollout in canary.rollouts()}
    canary.close()

    assert (status, phases) == (400, {"idle"})
    assert problem["detail"].startswith("rollout must not be there")


def test_where_there_are_several_one_must_be_named() -> None:
    canary = two_rollouts()
    app = create_app(canary, token=TOKEN)

    unnamed, problem = ask(app, "POST", "/rollback")
    named, state = ask(app, "POST", "/rollback", {"rollout": "search"})
    listed = ask(app, "GET", "/status")[1]
    canary.close()

    assert (unnamed, named, state["rollout"]) == (400, 200, "search")
    assert "search" in problem["detail"]
    assert {one["rollout"]: one["phase"] for one in listed} == {"search": "rolled_back", "checkout": "idle"}


def test_a_weight_that_the_environment_pins_is_not_said_to_be_set() -> None:
    canary = make(environ={"API_V2_TRAFFIC_PERCENTAGE": "10"})
    app = create_app(canary, token=TOKEN)

    status, problem = ask(app, "POST", "/set", {"weight": 50, "revision": 0})

    assert status == 422
    assert "API_V2_TRAFFIC_PERCENTAGE in the environment pins it to 10 %" in problem["detail"]
    assert canary.rollout().revision == 0
    assert ask(app, "POST", "/rollback")[1]["weight"] == 0


def test_the_weight_before_is_the_one_that_was_replaced_and_not_the_one_served_here(stored: Canary) -> None:
    app = create_app(stored, token=TOKEN)
    ask(app, "POST", "/set", {"weight": 5, "revision": 0})
    Control(stored.store).change(  # type: ignore[arg-type]
        "checkout", "set", lambda current: transitions.set_weight(current, 250_000), actor="another worker"
    )

    _, changed = ask(app, "POST", "/set", {"weight": 40, "revision": 2})

    assert (changed["before"], changed["weight"]) == (25, 40)


def test_a_reason_cannot_forge_lines_of_the_audit_trail(stored: Canary) -> None:
    app = create_app(stored, token=TOKEN)

    ask(app, "POST", "/rollback", {"reason": "slow\n\x1b[2Jok \ud800 größer"}, x_canary_actor="jürgen\x1b[1A")
    (row,) = ask(app, "GET", "/history?limit=1")[1]

    assert row["reason"] == "slow ?[2Jok ? größer"
    assert row["actor"] == "admin-token (jürgen?[1A)"


def test_a_reason_has_an_end() -> None:
    canary = make()

    status, problem = ask(create_app(canary, token=TOKEN), "POST", "/rollback", {"reason": "x" * 1001})

    assert (status, canary.rollout().phase) == (400, "idle")
    assert problem["detail"] == "reason has 1001 characters: must have 1000 at most"


def test_all_that_is_wrong_is_named_at_once() -> None:
    wrong = {"weight": "9", "revision": -1, "wait": "long", "raeson": ""}

    status, problem = ask(create_app(make(), token=TOKEN), "POST", "/set", wrong)

    assert status == 400
    assert [part.split(" ")[0] for part in problem["detail"].split("; ")] == ["revision", "wait", "weight", "raeson"]


def test_figures_of_one_worker_are_not_passed_off_as_the_fleets_while_the_store_is_away() -> None:
    store = FakeStore()
    canary = make(store=store)
    app = create_app(canary, token=TOKEN)
    store.is_away = True

    answers = [ask(app, "GET", target)[0] for target in ("/metrics", "/metrics?endpoint=/x", "/endpoints", "/status")]
    canary.close()

    assert answers == [503] * 4


def test_before_the_first_request_it_says_what_will_be_served(stored: Canary) -> None:
    app = create_app(stored, token=TOKEN)

    status, state = ask(app, "GET", "/status")
    started, result = ask(app, "POST", "/start", {"revision": state["revision"]})

    assert (status, state["phase"], started, result["weight"]) == (200, "idle", 200, 10)
    assert state["store"].startswith("sqlite:")


def test_a_stop_that_the_store_has_not_taken_is_not_said_to_be_everywhere() -> None:
    canary = two_rollouts()
    store: Any = canary.store
    store.set_back({"name": "search", "schema": 99, "revision": 7})

    status, results = ask(create_app(canary, token=TOKEN), "POST", "/emergency")
    phases = [rollout.phase for rollout in canary.rollouts()]
    canary.close()

    assert (status, phases) == (202, ["locked", "locked"])
    problems = {result["rollout"]: result["problem"] for result in results}
    assert problems["search"].startswith("in force in this worker, and told to the others when the store takes it: ")
    assert problems["checkout"] is None, "one bad record does not stand in the way of another rollout's stop"


def test_a_stop_that_lost_every_race_is_not_said_to_be_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = make(store=FakeStore())
    app = create_app(canary, token=TOKEN)
    ask(app, "POST", "/set", {"weight": 60, "revision": 0})

    def loses(*args: Any, **options: Any) -> None:
        raise StaleRevision("somebody else was first")

    monkeypatch.setattr(canary.store, "write", loses)
    status, result = ask(app, "POST", "/rollback")
    canary.close()

    assert (status, result["weight"]) == (202, 0)
    assert result["problem"].endswith("when the store takes it: it has not yet")


def test_an_emergency_asks_a_store_that_is_away_for_no_ones_workers_but_the_firsts() -> None:
    canary = two_rollouts()
    store: Any = canary.store
    store.is_away = True

    status, results = ask(create_app(canary, token=TOKEN), "POST", "/emergency", {"wait": 5})
    calls = len(store.calls)
    canary.close()

    assert (status, [result["phase"] for result in results]) == (202, ["locked", "locked"])
    assert all("does not answer" in result["problem"] for result in results)
    assert calls == 2, "one for the changes of both, and one for the workers"


def test_a_record_that_nobody_can_read_is_not_the_clients_fault() -> None:
    store = FakeStore()
    canary = make(store=store)
    store.set_back({"name": "checkout", "schema": 99, "revision": 7})

    status, problem = ask(create_app(canary, token=TOKEN), "GET", "/status")
    canary.close()

    assert (status, problem["title"]) == (503, "Store unavailable")
