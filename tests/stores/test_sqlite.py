"""What can happen to a file, and what the operator is told."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from canary_middleware._core.lifecycle.records import NewerSchema
from canary_middleware.errors import StoreUnavailable
from canary_middleware.stores.contract import a_record, a_worker, an_event, put
from canary_middleware.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "var" / "canary.db")
    yield store
    store.close()


def names(store: SQLiteStore) -> set[str]:
    found = store.read()
    assert found is not None
    return set(found[1])


def in_child(action: Callable[[], object]) -> str:
    """What went wrong in *action*, run in a forked child; empty where nothing did."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
            said = ""
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def test_a_locked_file_is_given_up_after_a_second(store: SQLiteStore) -> None:
    put(store)
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"locked by another process .*fuser") as caught:
        put(store, revision=1)

    assert 0.5 < time.monotonic() - begun < 3
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert names(store) == {"checkout"}
    blocker.execute("ROLLBACK")
    blocker.close()
    put(store, revision=1)


def test_a_deleted_file_is_noticed_and_the_new_one_is_another_generation(store: SQLiteStore) -> None:
    put(store)
    before = store.read()
    assert before is not None
    store.path.unlink()

    after = store.read(before[0])

    assert after is not None
    assert after[0] != before[0]
    assert after[1] == {}
    put(store)
    assert store.path.exists()


def test_a_file_deleted_under_two_processes_leaves_both_on_the_new_one(store: SQLiteStore) -> None:
    other = SQLiteStore(store.path)
    put(store)
    assert names(other) == {"checkout"}
    shutil.rmtree(store.path.parent)

    put(store, "search")
    put(other, "basket")

    assert names(store) == names(other) == {"search", "basket"}
    other.close()
    assert names(store) == {"search", "basket"}


def test_what_is_no_database_is_left_as_it_is(store: SQLiteStore) -> None:
    content = b"the notes of somebody who mistyped a path\n" * 30
    store.path.parent.mkdir()
    store.path.write_bytes(content)

    with pytest.raises(StoreUnavailable, match="move it away"):
        store.read()

    assert store.path.read_bytes() == content


def test_a_file_damaged_while_it_runs_is_unavailable_until_it_is_moved_away(store: SQLiteStore) -> None:
    for n in range(50):
        put(store, f"r{n}")
    store.close()
    content = bytearray(store.path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    store.path.write_bytes(content)

    with pytest.raises(StoreUnavailable, match="damaged"):
        store.read()
    store.path.unlink()
    assert names(store) == set()


def test_a_newer_schema_is_refused(store: SQLiteStore) -> None:
    put(store)
    with sqlite3.connect(store.path) as other:
        other.execute("PRAGMA user_version=99")
    other.close()
    store.close()

    with pytest.raises(NewerSchema, match=r"schema 99.*upgrade this process"):
        store.read()
    with pytest.raises(NewerSchema):
        put(store, revision=1)


def test_another_applications_database_is_not_written_to(store: SQLiteStore) -> None:
    store.path.parent.mkdir()
    with sqlite3.connect(store.path) as other:
        other.execute("CREATE TABLE django_session (id)")
    other.close()
    before = store.path.read_bytes()

    with pytest.raises(StoreUnavailable, match="another application's database"):
        store.read()

    assert store.path.read_bytes() == before


def test_a_file_that_may_not_be_written_says_so() -> None:
    # Not below pytest's directory, which only its user may enter: the child gives up being root.
    directory = Path(tempfile.mkdtemp())
    store = SQLiteStore(directory / "canary.db")
    try:
        put(store)
        store.close()
        directory.chmod(0o555)
        store.path.chmod(0o444)

        def write() -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            put(store, revision=1)

        said = in_child(write)

        assert said.startswith("StoreUnavailable")
        assert "read-only for this user" in said
        assert str(directory) in said
    finally:
        directory.chmod(stat.S_IRWXU)
        shutil.rmtree(directory)


def test_a_path_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnavailable, match="in a directory that exists or can be made"):
        SQLiteStore(tmp_path / "file" / "canary.db").read()


def test_a_full_disk_says_so_and_loses_nothing(store: SQLiteStore) -> None:
    put(store)

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        store.write(a_record(revision=1, note="x" * 500_000), expect=0, event=an_event(revision=1))

    said = in_child(fill)

    assert said.startswith("StoreUnavailable")
    assert "disk is full or failing" in said
    found = store.read()
    assert found is not None
    assert found[1]["checkout"]["revision"] == 0
    put(store, revision=1)


def test_a_worker_killed_in_mid_write_leaves_either_all_or_nothing(store: SQLiteStore) -> None:
    put(store)

    def die() -> None:
        with store._transaction(is_durable=True) as connection:
            connection.execute("UPDATE rollouts SET revision=7, record='half'")
            os.kill(os.getpid(), signal.SIGKILL)

    in_child(die)

    found = store.read()
    assert found is not None
    assert found[1]["checkout"] == a_record()
    put(store, revision=1)
    assert len(store.history()) == 2


def test_parent_and_child_of_a_fork_both_go_on(store: SQLiteStore) -> None:
    put(store)
    parents = store._connection
    assert parents is not None

    said = in_child(lambda: (put(store, "child"), store.close()))

    assert said == ""
    put(store, revision=1)
    assert names(store) == {"checkout", "child"}


def test_a_fork_waits_for_the_call_that_another_thread_is_in(store: SQLiteStore) -> None:
    from threading import Thread

    put(store)
    stopped: list[bool] = []
    thread = Thread(target=lambda: [store.beat(a_worker()) for _ in iter(lambda: bool(stopped), True)])
    thread.start()
    try:
        said = [in_child(lambda: store.beat(a_worker("child"))) for _ in range(10)]
    finally:
        stopped.append(True)
        thread.join()

    assert said == [""] * 10


def test_a_clock_set_back_neither_keeps_the_dead_nor_freezes_a_lease(tmp_path: Path) -> None:
    now_s = 1_700_000_000.0
    store = SQLiteStore(tmp_path / "canary.db", clock=lambda: now_s)
    store.beat(a_worker())
    first = store.acquire("judge", "dead", 10)
    now_s -= 3600

    assert store.workers() == []
    second = store.acquire("judge", "other", 10)
    assert first is not None
    assert second is not None
    assert second > first
    store.close()


def test_a_silent_worker_is_forgotten_after_a_minute(tmp_path: Path) -> None:
    now_s = 1_700_000_000.0
    store = SQLiteStore(tmp_path / "canary.db", clock=lambda: now_s)
    store.beat(a_worker("silent"))
    now_s += 59
    assert [worker.id for worker in store.workers()] == ["silent"]
    now_s += 2

    assert store.workers() == []
    store.beat(a_worker("new"))
    with store._connected() as connection:
        assert connection.execute("SELECT id FROM workers").fetchall() == [("new",)]
    store.close()


def test_a_week_of_counts_stays_small_and_complete(tmp_path: Path) -> None:
    # An hour at full rate, then hours as they end up: eight days of single seconds would take minutes.
    now_s = 1_700_000_000.0
    store = SQLiteStore(tmp_path / "canary.db", clock=lambda: now_s)
    series = {
        f'["checkout","v{n % 2}","canary","hash","GET",200,"/api/items/{n}"]': {
            "s": 0.5,
            **{str(k): 1 for k in range(200, 220)},
        }
        for n in range(10)
    }
    for tick in range(3600):
        now_s += 1
        store.add_counts("worker", tick, int(now_s), series)
    for hour in range(200):
        for part in range(3):
            now_s += 1200
            store.add_counts("worker", 3600 + hour * 3 + part, int(now_s), series)

    store.close()
    windows = store.counts()
    total = sum(plain[next(iter(series))]["200"] for _, plain in windows)

    assert store.path.stat().st_size < 4_000_000
    assert len(windows) < 300
    # What is within eight days: 192 hours of 3, give or take the windows at both ends.
    assert 192 * 3 - 4 <= total <= 192 * 3 + 4
    store.close()
