"""Many processes at one store: no update is lost, whoever dies."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from canary_middleware.errors import StaleRevision
from canary_middleware.stores import open_store
from canary_middleware.stores.contract import a_record, a_worker, an_event, put
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from canary_middleware._core.ports import Store
    from tests.support.redis_server import RedisServer

PROCESSES = 8
WRITES = 125


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/canary.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.command("FLUSHALL")
    return server.url


def forked(action: Callable[[], None]) -> int:
    """The pid of a child that carries out *action* and exits 0, or 1 where that failed."""
    child = os.fork()
    if child:
        return child
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        code = 1
    os._exit(code)


def exit_codes(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def increment(store: Store, actor: str) -> None:
    """Raise the rollout's weight by one, from whatever it is."""
    while True:
        found = store.read()
        assert found is not None
        record = found[1]["checkout"]
        revision = record["revision"] + 1
        try:
            store.write(
                a_record(revision=revision, weight_ppm=record["weight_ppm"] + 1),
                expect=record["revision"],
                event=an_event(revision=revision, actor=actor),
            )
        except StaleRevision:
            continue
        return


def state(store: Store) -> tuple[int, int]:
    """Revision and weight."""
    found = store.read()
    assert found is not None
    record = found[1]["checkout"]
    return record["revision"], record["weight_ppm"]


def test_a_thousand_writes_from_eight_processes_lose_no_update_and_leave_a_line_each(url: str) -> None:
    store = open_store(url)
    store.write(a_record(weight_ppm=0), expect=None, event=an_event(actor="first"))

    def work() -> None:
        for _ in range(WRITES):
            increment(store, f"worker {os.getpid()}")

    children = [forked(work) for _ in range(PROCESSES)]

    assert exit_codes(children) == [0] * PROCESSES
    assert state(store) == (PROCESSES * WRITES, PROCESSES * WRITES)
    trail = store.history("checkout", limit=5000)
    assert [event.revision for event in trail] == list(range(PROCESSES * WRITES, -1, -1))
    actors = [event.actor for event in trail]
    assert {actors.count(f"worker {child}") for child in children} == {WRITES}
    store.close()


def test_workers_killed_while_they_write_leave_state_and_trail_in_step(url: str) -> None:
    store = open_store(url)
    store.write(a_record(weight_ppm=0), expect=None, event=an_event())

    def work() -> None:
        while True:
            increment(store, "doomed")

    for _ in range(5):
        before, _ = state(store)
        child = forked(work)
        try:
            eventually(lambda before=before: state(store)[0] > before + 3)
        finally:
            os.kill(child, signal.SIGKILL)
        assert exit_codes([child]) == [-signal.SIGKILL]

        revision, weight_ppm = state(store)
        assert revision == weight_ppm
        assert [event.revision for event in store.history(limit=10_000)] == list(range(revision, -1, -1))
    increment(store, "survivor")
    store.close()


def test_counts_of_processes_add_up_and_one_holds_the_lease(url: str) -> None:
    store = open_store(url)
    now_s = int(store.now())

    def work() -> None:
        me = f"worker {os.getpid()}"
        for sequence in range(20):
            # Each twice, as after a lost answer.
            for _ in range(2):
                store.add_counts(me, sequence, now_s, {"x": {"s": 0.5, "3": 1}})
        if store.acquire("judge", me, 60) is not None:
            store.log(an_event("leader", actor=me))
        store.beat(a_worker(me))

    children = [forked(work) for _ in range(PROCESSES)]

    assert exit_codes(children) == [0] * PROCESSES
    assert [dict(plain) for _, plain in store.counts()] == [{"x": {"s": 10.0 * PROCESSES, "3": 20 * PROCESSES}}]
    assert len(store.history("leader")) == 1
    assert {worker.id for worker in store.workers()} == {f"worker {child}" for child in children}
    store.close()


def test_a_new_store_may_be_opened_by_everybody_at_once(url: str) -> None:
    def work() -> None:
        store = open_store(url)
        try:
            put(store)
        except StaleRevision:
            pass
        store.close()

    assert exit_codes([forked(work) for _ in range(PROCESSES)]) == [0] * PROCESSES
    store = open_store(url)
    assert len(store.history()) == 1
    store.close()
