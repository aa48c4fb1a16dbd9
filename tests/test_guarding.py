"""What a tripped guardrail leads to: here at once, in the store a moment later, and never a wait for it."""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, telemetry
from canary_middleware._core.evidence.guardrail import Guard
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.plan.schema import parse
from canary_middleware._store_link import _MOST_OWED, Sharing
from canary_middleware.stores.changes import Control
from tests.core.heads import Head
from tests.support.fake_store import FakeStore
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from canary_middleware._core.exchange import Exchange
    from canary_middleware._core.lifecycle.records import Event

LIMITS = {"error_rate": {"max": 0.05}}


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def make(store: FakeStore) -> Iterator[Callable[..., Canary]]:
    """Makes a Canary on the store, with everybody on v2; all are closed in the end."""
    made: list[Canary] = []

    def make(action: str = "rollback", **fields: Any) -> Canary:
        guardrails = {"error_rate": {"max": 0.05, "action": action}}
        given: dict[str, Any] = {
            "key": ["header:x-user"],
            "store": store,
            "environ": {},
            "guardrails": guardrails,
            **fields,
        }
        canary = Canary("checkout", **given)
        made.append(canary)
        if not made[1:]:
            canary.start() if fields.get("stages") else canary.set_weight(100)
        request(canary)
        eventually(lambda: canary.assign("u").is_canary)
        return canary

    yield make
    for canary in made:
        canary.close()


def begin(canary: Canary, user: str = "u") -> Exchange:
    exchange = canary.begin(Head(headers={"x-user": user}))
    assert exchange is not None
    return exchange


def request(canary: Canary, status: int = 200, user: str = "u") -> str:
    """One request served; returns its version."""
    exchange = begin(canary, user)
    exchange.status = status if exchange.variant.role == "canary" else 200
    exchange.finish()
    return exchange.variant.version


def break_it(canary: Canary, requests: int = 8) -> list[str]:
    return [request(canary, 500) for _ in range(requests)]


def told(store: FakeStore, verb: str) -> list[Event]:
    return [event for event in store.events if event.verb == verb]


def test_the_rollback_is_in_force_here_before_the_store_hears_of_it_with_its_evidence(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    here, there = make(), make()
    versions = break_it(here, 20)

    assert versions == sorted(versions, reverse=True)
    assert here.rollout().phase == "rolled_back"
    eventually(lambda: there.assign("u").reason == "rolled_back")
    (event,) = told(store, "rollback")
    assert (event.actor, event.reason) == ("guardrail", here.rollout().phase_reason)
    assert event.evidence["guardrail"] == {"error_rate": {"max": 0.05}}
    assert event.evidence["worker"].split(":")[1] == str(os.getpid())
    assert [outcome["status"] for outcome in event.evidence["outcomes"]] == [500] * event.evidence["bad"]


def test_a_trip_neither_asks_nor_waits_for_the_store(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make()
    store.is_away = True
    with store._lock:  # whoever asks the store, waits
        done = threading.Thread(target=break_it, args=(canary,))
        done.start()
        done.join(10)
        assert not done.is_alive()
        assert canary.assign("u").reason == "rolled_back"

    store.is_away = False
    eventually(lambda: store.records["checkout"]["phase"] == "rolled_back", timeout=20)


def test_workers_that_find_the_same_write_one_line(make: Callable[..., Canary], store: FakeStore) -> None:
    canaries = [make() for _ in range(3)]
    for canary in canaries:
        break_it(canary)

    eventually(lambda: not any(c.sharing._owed for c in canaries if c.sharing is not None))
    assert len(told(store, "rollback")) == 1
    assert {c.rollout().revision for c in canaries} == {2}


def test_a_worker_that_was_overtaken_while_it_wrote_writes_nothing(
    make: Callable[..., Canary], store: FakeStore
) -> None:
    canary = make()

    def first() -> None:
        Control(store).change("checkout", "rollback", lambda r: transitions.roll_back(r, "x"), actor="ada")

    store.before_write = first
    break_it(canary)

    eventually(lambda: canary.rollout().phase_reason == "x")
    assert [event.actor for event in told(store, "rollback")] == ["ada"]


def test_a_store_that_came_back_empty_is_told_too(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make()
    store.is_away = True
    break_it(canary)
    store.forget()
    store.is_away = False

    eventually(lambda: told(store, "rollback"), timeout=20)
    assert store.records["checkout"]["phase"] == "rolled_back"


def test_a_pause_is_told_and_the_weight_stays(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make("pause", stages=[100])
    break_it(canary, 20)

    eventually(lambda: store.records["checkout"]["phase"] == "paused")
    assert canary.rollout().effective_ppm == 1_000_000
    assert len(told(store, "pause")) == 1


def test_a_warning_changes_nothing_and_stands_in_the_audit_trail_once(
    make: Callable[..., Canary], store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    canary = make("warn")
    before = canary.rollout()
    break_it(canary, 20)

    eventually(lambda: told(store, "warn"))
    assert canary.rollout() == before
    assert len([r for r in caplog.records if "guardrail" in r.getMessage()]) == len(told(store, "warn")) == 1
    assert "going on, as its plan says" in caplog.text


def test_a_dry_run_says_what_it_would_have_done(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make(enforce=False)
    before = canary.rollout()
    break_it(canary, 20)

    eventually(lambda: told(store, "dry-run"))
    (event,) = told(store, "dry-run")
    assert event.evidence["would"] == "rollback"
    assert event.reason.startswith("would rollback: ")
    assert canary.rollout() == before


def test_a_shared_incident_that_cannot_be_held_is_said_all_the_same(
    make: Callable[..., Canary], store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    canary = make()  # paused(manual): a person set its weight
    for _ in range(10):
        for version in ("v1", "v2"):
            exchange = begin(canary)
            exchange.variant = canary.variants.get(
                "checkout", version, "stable" if version == "v1" else "canary", "weight"
            )
            exchange.assignment = exchange.assignment._replace(variant=exchange.variant)
            exchange.status = 503
            exchange.finish()

    eventually(lambda: told(store, "warn"))
    assert told(store, "warn")[0].reason.startswith("shared incident")
    assert canary.rollout().effective_ppm == 1_000_000
    assert "left as it is: cannot hold" in caplog.text


def test_warnings_are_kept_in_bounds_while_the_store_is_away(make: Callable[..., Canary], store: FakeStore) -> None:
    canary = make("warn")
    sharing = canary.sharing
    assert sharing is not None
    store.is_away = True
    for n in range(3 * _MOST_OWED):
        sharing.owe("checkout", "warn", None, actor="guardrail", reason=str(n), evidence={})
    break_it(canary)
    sharing.owe(
        "checkout",
        "rollback",
        lambda r: transitions.roll_back(r, "x"),
        actor="guardrail",
        reason="x",
        evidence={},
    )
    store.is_away = False

    eventually(lambda: store.records["checkout"]["phase"] == "rolled_back", timeout=20)
    assert len(told(store, "warn")) == _MOST_OWED


def test_a_canary_that_is_gone_owes_nothing(store: FakeStore) -> None:
    sharing = Sharing(Canary("checkout", environ={}), store)
    gc.collect()
    sharing.owe("checkout", "warn", None, actor="guardrail", reason="x", evidence={})

    assert sharing._owed == []


def local(**fields: Any) -> Canary:
    given: dict[str, Any] = {"key": ["header:x-user"], "environ": {}, "weight": 100, "guardrails": LIMITS, **fields}
    return Canary("checkout", **given)


def test_without_a_store_a_warning_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    canary = local(guardrails={"error_rate": {"max": 0.05, "action": "warn"}})

    assert break_it(canary, 20) == ["v2"] * 20
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert canary.internal_errors() == {}


def test_without_a_store_a_trip_is_logged_in_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    canary = local()

    assert break_it(canary, 5) == ["v2"] * 3 + ["v1"] * 2
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == (
        "canary guardrail of checkout: 3 of the last 3 requests to v2 failed: more than the error_rate limit of 5 % "
        "allows. It is rolled back: everybody gets stable until somebody retries"
    )


def test_requests_that_were_under_way_at_the_rollback_do_not_condemn_the_retry() -> None:
    canary = local(weight=0, stages=[100])
    canary.start()
    under_way = [begin(canary) for _ in range(20)]
    break_it(canary)
    canary.retry()
    for exchange in under_way:
        exchange.status = 500
        exchange.finish()

    assert canary.rollout().phase == "progressing"
    assert break_it(canary, 4) == ["v2"] * 3 + ["v1"]


def test_other_limits_begin_anew_and_none_watch_nothing() -> None:
    canary = local()
    break_it(canary, 2)
    plans = [
        parse({"rollout": {"checkout": {"key": ["header:x-user"], "guardrails": limits}}}).rollouts[0]
        for limits in ({"error_rate": {"max": 0.04}}, {"error_rate": {"max_increase": 0.1}}, {})
    ]

    canary.serve(canary.rollout()._replace(plan=plans[0]))
    assert break_it(canary, 4) == ["v2"] * 3 + ["v1"]
    for plan in plans[1:]:
        canary.serve(canary.rollout()._replace(plan=plan, phase="paused", weight_ppm=1_000_000))
        assert break_it(canary, 20) == ["v2"] * 20


def test_a_fork_begins_with_nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = local()
    break_it(canary, 2)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    canary.forked()

    assert break_it(canary, 4) == ["v2"] * 3 + ["v1"]


def test_each_rollout_has_a_guard_of_its_own() -> None:
    key: dict[str, Any] = {"key": ["header:x-user"], "weight": 100}
    canary = Canary.load(
        {
            "rollout": {
                "one": {**key, "endpoints": ["/one"], "guardrails": LIMITS},
                "two": {**key, "endpoints": ["/two"]},
                "three": {**key, "endpoints": ["/three"], "guardrails": LIMITS},
            }
        },
        environ={},
    )
    for path in ("/one", "/two"):
        for _ in range(10):
            exchange = canary.begin(Head(path=path, headers={"x-user": "u"}))
            assert exchange is not None
            exchange.status = 500
            exchange.finish()

    assert [rollout.phase for rollout in canary.rollouts()] == ["rolled_back", "idle", "idle"]


class Traced:
    """A recorder that knows traces, or fails to."""

    def __init__(self, trace_id: str | None) -> None:
        self._trace_id = trace_id

    def begin(self, exchange: Exchange, head: object) -> None: ...

    def end(self, exchange: Exchange) -> None: ...

    def trace_id(self, exchange: Exchange) -> str | None:
        if self._trace_id is None:
            raise RuntimeError("no trace")
        return self._trace_id


def test_the_evidence_names_the_traces(
    make: Callable[..., Canary], store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "recorder", lambda canary, **options: Traced("0af7"))
    break_it(make())

    eventually(lambda: told(store, "rollback"))
    assert {o["trace_id"] for o in told(store, "rollback")[0].evidence["outcomes"]} == {"0af7"}


def test_evidence_without_traces_is_evidence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "recorder", lambda canary, **options: Traced(None))
    canary = local()

    assert break_it(canary, 5) == ["v2"] * 3 + ["v1"] * 2
    assert canary.internal_errors() == {("telemetry", "RuntimeError"): 3}


def test_a_guard_that_fails_breaks_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def observe(*args: object) -> None:
        raise RuntimeError("observe")

    monkeypatch.setattr(Guard, "observe", observe)
    canary = local()

    assert break_it(canary, 5) == ["v2"] * 5
    assert canary.internal_errors() == {("guardrail", "RuntimeError"): 5}
    assert sum(canary.counts.snapshot().ended.values()) == 5
