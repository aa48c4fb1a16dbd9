"""
What befalls a store while a real service takes real traffic, and what its users see of it: nothing.

Every answer of every test is checked: the version must be one that a weight gives which was in force while the
request was under way, nothing is lost, and nothing waits. ``EACH`` times the tests is over 100,000 requests.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import struct
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.records import Event, to_record
from canary_middleware.errors import StoreUnavailable
from canary_middleware.stores import open_store
from canary_middleware.stores.changes import Control
from canary_middleware.stores.sqlite import SQLiteStore
from tests.support import servers
from tests.support.assignments import InForce, ask, users, wrong
from tests.support.client import Client
from tests.support.load import Traffic
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, free_port
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from canary_middleware._core.lifecycle.rollout import Rollout
    from canary_middleware._core.ports import Store
    from tests.support.assignments import Asked

EACH: Final = 10_000
# A worker whose store was away for a while asks again after five seconds at most.
BACK_S: Final = 20.0
# Nobody waits for a store; the first request of a process does, for 0.3 s at most, and a machine may be busy.
P99_S: Final = 1.0

USERS: Final = users(2_000)
APP: Final = "tests.e2e.apps.steered"


class Service:
    """A running service under traffic, and an operator who steers it as the command line does."""

    def __init__(self, server: servers.Server, traffic: Traffic, store: Store, in_force: Mapping[str, InForce]) -> None:
        self.server = server
        self.traffic = traffic
        self.control = Control(store)
        self.in_force = in_force

    # -- the operator -----------------------------------------------------------------------------------------------

    def set_weight(self, percent: float, name: str = "shop") -> None:
        """Set a weight, and wait until every worker serves it."""
        self.begin_to_set(percent, name)
        self.is_acknowledged(name)

    def begin_to_set(self, percent: float, name: str = "shop") -> None:
        """Set a weight, and do not wait."""
        self.in_force[name].changing_to(percent)
        self._change(name, "set", partial(transitions.set_weight, weight_ppm=round(percent * 10_000)))

    def roll_back(self, name: str = "shop") -> None:
        """Roll back, and wait until every worker serves stable alone."""
        self.in_force[name].changing_to(0)
        self._change(name, "rollback", partial(transitions.roll_back, trigger="by hand"))
        self.is_acknowledged(name)

    def fails_to_set(self, percent: float) -> str:
        """Try to set a weight; what the operator is told."""
        self.in_force["shop"].changing_to(percent)
        with pytest.raises(StoreUnavailable) as caught:
            self._change("shop", "set", partial(transitions.set_weight, weight_ppm=round(percent * 10_000)))
        self.in_force["shop"].refused()
        return str(caught.value)

    def _change(self, name: str, verb: str, transition: Callable[[Rollout], Rollout]) -> None:
        self.control.change(name, verb, transition, actor="ada", reason="a test")

    def is_acknowledged(self, *names: str) -> None:
        """Every worker that lives serves what the store holds of *names*."""
        wanted = {name: rollout.revision for name, rollout in self.control.rollouts().items() if name in names}

        def everyone() -> bool:
            said = {worker.pid: worker.revisions for worker in self.control.store.workers()}
            pids = self.server.worker_pids()
            return all(said.get(pid, {}).get(name, -1) >= n for pid in pids for name, n in wanted.items())

        eventually(everyone, timeout=BACK_S, message=lambda: f"{self.control.store.workers()} {self.server.logs()}")
        for name in names:
            self.in_force[name].acknowledged()

    # -- what is to be seen -----------------------------------------------------------------------------------------

    def is_registered(self, *names: str) -> None:
        """The workers have found the store, and it holds their rollouts."""

        def known() -> bool:
            try:
                return set(names or ["shop"]) <= set(self.control.names())
            except StoreUnavailable:
                return False

        eventually(known, timeout=BACK_S, message=self.server.logs)
        self.is_acknowledged(*(names or ["shop"]))

    def answers(self, number: int = 3_000) -> float:
        """Wait until *number* more requests are answered, some by each worker; when that began."""
        begun_s, before = time.monotonic(), self.traffic.answered

        def enough() -> bool:
            if self.traffic.errors:
                raise RuntimeError(self.server.logs()[-4000:]) from self.traffic.errors[0]
            everybody = set(self.server.worker_pids())
            return self.traffic.answered >= before + number and self.traffic.pids_since(begun_s) >= everybody

        eventually(enough, timeout=60, message=self.server.logs)
        return begun_s

    def serves(self, percent: float) -> None:
        """Every worker comes to serve *percent*, also where it cannot say so."""
        weight = round(percent * 10_000)

        def all_do() -> bool:
            begun_s = self.answers(500)
            asked = self.traffic.asked
            return not any(
                wrong(asked[(batch.first + n) % len(asked)], version, (weight, weight))
                for batch in tuple(self.traffic.batches)
                if batch.sent_s >= begun_s
                for n, version in enumerate(batch.versions)
            )

        eventually(all_do, timeout=BACK_S)

    def note(self) -> set[str]:
        """What the workers say of themselves."""
        return {worker.note for worker in self.control.store.workers() if worker.pid in self.server.worker_pids()}


@contextmanager
def service(
    url: str,
    directory: Path,
    *,
    kind: str = "uvicorn",
    env: Mapping[str, str] | None = None,
    store: Store | str | None = None,
    in_force: Mapping[str, InForce] | None = None,
    asked: Sequence[Asked] = USERS,
    may_lose: bool = False,
) -> Iterator[Service]:
    """
    A service on the store at *url* under traffic; when it is left, every answer is checked.

    Args:
        directory: for what its workers last knew.
        kind: ``uvicorn`` (2 workers) or ``gunicorn`` (3 workers of 4 threads).
        store: the operator's own way to the store, by default *url*.
        in_force: what is served at the beginning, by default stable alone.
    """
    environ = {"CANARY_STORE": url, "TMPDIR": str(directory), "OTEL_SDK_DISABLED": "true", **(env or {})}
    in_force = in_force or {"shop": InForce()}
    operators = open_store(store or url)
    starts: dict[str, Any] = {
        "uvicorn": lambda: servers.uvicorn(f"{APP}:asgi_app", workers=2, env=environ),
        "gunicorn": lambda: servers.gunicorn(
            f"{APP}:wsgi_app", workers=3, threads=4, worker_class="gthread", env=environ
        ),
    }
    try:
        with starts[kind]() as server:
            depth = 16 if kind == "uvicorn" else 1
            with Traffic(server.port, asked, depth=depth, may_lose=may_lose) as traffic:
                running = Service(server, traffic, operators, in_force)
                running.answers(500)
                yield running
                running.answers(max(500, EACH - traffic.answered))
    finally:
        operators.close()
    _hold(traffic, in_force)


def _hold(traffic: Traffic, in_force: Mapping[str, InForce]) -> None:
    findings = traffic.check(in_force)
    print(f"\n{findings}, {traffic.resent} sent again")
    assert not traffic.errors
    assert not findings.wrong
    assert findings.checked >= EACH
    assert findings.p99_s < P99_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's SQLite file is, in a directory of its own."""
    return tmp_path / "store" / "canary.db"


def sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


# -- a store that is away ---------------------------------------------------------------------------------------------


def test_a_service_that_starts_without_its_store_serves_stable_until_it_is_there(tmp_path: Path) -> None:
    with RedisServer() as redis:
        redis.stop()
        with service(redis.url, tmp_path) as shop:
            shop.answers()
            redis.start()
            shop.is_registered()
            shop.set_weight(30)
            shop.serves(30)
            shop.roll_back()


def test_a_service_that_starts_without_its_store_serves_the_last_weights(tmp_path: Path) -> None:
    in_force = {"shop": InForce()}
    with RedisServer(is_kept=True) as redis:
        with service(redis.url, tmp_path, in_force=in_force) as shop:
            shop.is_registered()
            shop.set_weight(40)
        redis.stop()
        with service(redis.url, tmp_path, in_force=in_force) as shop:
            shop.answers()
            redis.start()
            shop.roll_back()
        redis.stop()
        with service(redis.url, tmp_path, in_force=in_force) as shop:
            shop.answers()


def test_while_redis_is_stopped_the_weights_stay_and_afterwards_they_follow(tmp_path: Path) -> None:
    with RedisServer(is_kept=True) as redis, service(redis.url, tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(50)
        redis.stop()
        shop.answers()
        said = shop.fails_to_set(80)
        shop.serves(50)
        redis.start()
        shop.roll_back()

    assert "cannot be reached: start it" in said


def test_a_directory_moved_away_and_back_brings_no_old_weight_back(tmp_path: Path, path: Path) -> None:
    away = tmp_path / "away"

    def swap() -> bool:
        # A worker may make the directory again at any moment.
        path.parent.rename(tmp_path / f"aside-{time.monotonic_ns()}")
        try:
            away.rename(path.parent)
        except OSError:
            return False
        return True

    with service(sqlite(path), tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(50)
        path.parent.rename(away)
        shop.is_registered()
        shop.serves(50)
        shop.set_weight(20)
        eventually(swap)
        shop.answers()
        eventually(lambda: shop.control.rollout("shop").weight_ppm == 200_000)
        shop.roll_back()


# -- a file in trouble ------------------------------------------------------------------------------------------------


def test_while_the_file_is_locked_the_weights_stay(tmp_path: Path, path: Path) -> None:
    with service(sqlite(path), tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(30)
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        shop.answers()
        said = shop.fails_to_set(60)
        shop.serves(30)
        holder.execute("ROLLBACK")
        holder.close()
        shop.set_weight(60)
        shop.roll_back()

    assert "is locked by another process" in said


def test_a_file_that_became_read_only_leaves_the_last_weights(tmp_path: Path, path: Path) -> None:
    in_force = {"shop": InForce()}
    start = partial(service, sqlite(path), tmp_path, in_force=in_force, env={"POWERLESS": "1"})
    with start() as shop:
        shop.is_registered()
        shop.set_weight(30)
    path.parent.chmod(0o555)
    path.chmod(0o444)
    with start() as shop:
        shop.answers()
        shop.serves(30)
        eventually(lambda: "is read-only for this user" in shop.server.logs(), message=shop.server.logs)
        path.parent.chmod(0o755)
        path.chmod(0o644)
        shop.roll_back()


def test_a_deleted_file_is_made_again_with_the_same_weights(tmp_path: Path, path: Path) -> None:
    with service(sqlite(path), tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(40)
        for file in path.parent.iterdir():
            file.unlink()
        shop.is_registered()
        assert shop.control.rollout("shop").weight_ppm == 400_000
        shop.roll_back()
        path.unlink()
        shop.is_registered()
        assert shop.control.rollout("shop").phase == "rolled_back"


def test_a_damaged_file_leaves_the_weights_and_moving_it_away_mends_it(tmp_path: Path, path: Path) -> None:
    with service(sqlite(path), tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(40)
        noise = random.Random(3)
        for file in (path, path.with_name(path.name + "-wal")):
            with file.open("r+b") as damaged:
                damaged.write(noise.randbytes(max(8192, file.stat().st_size)))
        shop.answers()
        said = shop.fails_to_set(80)
        shop.serves(40)
        for file in path.parent.iterdir():
            file.rename(tmp_path / file.name)
        shop.is_registered()
        assert shop.control.rollout("shop").weight_ppm == 400_000
        shop.roll_back()

    assert "move it away" in said


def test_with_a_full_disk_workers_follow_what_they_can_no_longer_acknowledge(tmp_path: Path, path: Path) -> None:
    with service(sqlite(path), tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(50)
        pids = shop.server.worker_pids()
        # As on a full disk, for these processes alone: no file takes another byte.
        before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
        for pid, (_, hard) in zip(pids, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        shop.begin_to_set(10)
        shop.serves(10)
        (revision,) = {worker.revisions["shop"] for worker in shop.control.store.workers()}
        assert revision < shop.control.rollout("shop").revision
        for pid, limit in zip(pids, before, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
        shop.is_acknowledged("shop")
        shop.roll_back()


# -- a Redis in trouble -----------------------------------------------------------------------------------------------


def test_a_redis_that_restarts_empty_gets_the_state_back(tmp_path: Path) -> None:
    with RedisServer() as redis, service(redis.url, tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(40)
        redis.restart_empty()
        shop.is_registered()
        assert shop.control.rollout("shop").weight_ppm == 400_000
        shop.roll_back()
        redis.restart_empty()
        shop.is_registered()
        assert shop.control.rollout("shop").phase == "rolled_back"


def test_a_failover_is_followed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(RedisServer())
        replica = stack.enter_context(RedisServer(arguments=("--replicaof", "127.0.0.1", str(primary.port))))
        eventually(lambda: "state=online" in primary.command("INFO", "replication"))
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 5000\n"
        )
        sentinel = stack.enter_context(RedisServer(port=free_port(), config=str(config), arguments=("--sentinel",)))
        eventually(lambda: "slaves=1" in sentinel.command("INFO", "sentinel"))
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"
        with service(url, tmp_path) as shop:
            shop.is_registered()
            shop.set_weight(40)
            primary.kill()
            shop.answers()
            eventually(lambda: "role:master" in replica.command("INFO", "replication"), timeout=30)
            shop.is_registered()
            shop.serves(40)
            shop.roll_back()


def test_a_slow_redis_slows_no_request_and_what_it_was_told_comes_later(tmp_path: Path) -> None:
    with (
        RedisServer() as redis,
        Proxy(redis.port) as proxy,
        service(f"redis://127.0.0.1:{proxy.port}/0", tmp_path, store=redis.url) as shop,
    ):
        shop.is_registered()
        shop.set_weight(40)
        proxy.delay_s = 2.0
        eventually(lambda: "did not answer in time" in shop.server.logs())
        shop.answers()
        shop.begin_to_set(10)
        shop.answers()
        proxy.delay_s = 0.0
        shop.is_acknowledged("shop")
        shop.roll_back()


def test_with_a_wrong_password_stable_serves(tmp_path: Path) -> None:
    with RedisServer(password="right") as redis:
        wrong_url = redis.url.replace("right", "wrong")
        with service(wrong_url, tmp_path, store=redis.url) as shop:
            shop.answers()
            assert shop.control.names() == []
            assert "correct them in the store's URL" in shop.server.logs()


def test_a_password_that_is_changed_under_the_workers_leaves_the_weights(tmp_path: Path) -> None:
    with RedisServer(password="first") as redis, service(redis.url, tmp_path) as shop:
        shop.is_registered()
        shop.set_weight(40)
        redis.command("CONFIG", "SET", "requirepass", "second")
        redis.password = "second"
        redis.command("CLIENT", "KILL", "TYPE", "normal")
        said = shop.fails_to_set(60)
        eventually(lambda: "refused user or password" in shop.server.logs())
        shop.serves(40)
        redis.command("CONFIG", "SET", "requirepass", "first")
        shop.roll_back()

    assert "correct them in the store's URL" in said


# -- workers, clocks, releases, numbers -------------------------------------------------------------------------------


@contextmanager
def writing(shop: Service) -> Iterator[list[int]]:
    """Workers write to the store all the time; the list holds what they answered, 0 where they did not."""
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            for percent in (20, 40):
                try:
                    with Client(shop.server.url) as client:
                        written.append(client.post(f"/set/{percent}").status)
                except OSError:
                    written.append(0)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        yield written
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def kill_one(shop: Service, written: Sequence[int], chance: random.Random) -> None:
    """Kill a worker once there were some more writes, and wait until it is gone."""
    enough = written.count(204) + 20
    eventually(lambda: written.count(204) > enough, message=shop.server.logs)
    victim = chance.choice(shop.server.worker_pids())
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in shop.server.worker_pids())


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_workers_killed_in_mid_write_leave_state_and_trail_in_step(tmp_path: Path, path: Path, backend: str) -> None:
    chance = random.Random(7)
    with ExitStack() as stack:
        url = sqlite(path) if backend == "sqlite" else stack.enter_context(RedisServer()).url
        shop = stack.enter_context(service(url, tmp_path, kind="gunicorn", may_lose=True))
        shop.is_registered()
        shop.set_weight(20)
        shop.in_force["shop"].changing_to(40)
        with writing(shop) as written:
            for _ in range(8):
                kill_one(shop, written, chance)
        eventually(lambda: len(shop.server.worker_pids()) == 3)
        shop.answers(1_000)
        shop.set_weight(30)

        trail = [event.revision for event in shop.control.store.history("shop", 100_000)]
        assert trail == list(range(shop.control.rollout("shop").revision, -1, -1))
        shop.roll_back()


def test_a_clock_set_back_an_hour_and_forward_again_changes_nothing(tmp_path: Path, path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    ahead_s = 0.0

    def set_clock(seconds: float) -> None:
        nonlocal ahead_s
        ahead_s = seconds
        with clock.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    operators = SQLiteStore(path, clock=lambda: time.time() + ahead_s)
    with service(sqlite(path), tmp_path, store=operators, env={"CLOCK": str(clock)}) as shop:
        shop.is_registered()
        shop.set_weight(30)
        set_clock(-3600.0)
        shop.answers()
        shop.set_weight(50)
        assert {worker.pid for worker in operators.workers()} == set(shop.server.worker_pids())
        set_clock(0.0)
        shop.answers()
        shop.roll_back()
        assert {worker.pid for worker in operators.workers()} == set(shop.server.worker_pids())


def test_a_state_of_a_newer_release_is_refused_and_the_last_good_one_stays(tmp_path: Path, path: Path) -> None:
    in_force = {"shop": InForce()}
    with service(sqlite(path), tmp_path, in_force=in_force) as shop:
        shop.is_registered()
        shop.set_weight(30)
        good = shop.control.rollout("shop")
        newer = {**to_record(good), "schema": 99, "revision": good.revision + 1, "weight_ppm": 900_000}
        shop.control.store.write(newer, expect=good.revision, event=an_event(good.revision + 1))
        shop.answers()
        eventually(lambda: {"upgrade this process" in note for note in shop.note()} == {True})
        shop.serves(30)
    # So does one that starts now.
    with service(sqlite(path), tmp_path, in_force=in_force) as shop:
        shop.answers()
        shop.serves(30)
        mended = transitions.roll_back(good._replace(revision=good.revision + 1), "by hand")
        in_force["shop"].changing_to(0)
        shop.control.store.write(to_record(mended), expect=good.revision + 1, event=an_event(mended.revision))
        shop.is_acknowledged("shop")
        eventually(lambda: shop.note() == {""})


def an_event(revision: int) -> Event:
    return Event(rollout="shop", revision=revision, at_s=0.0, actor="ada", verb="set", before={}, after={})


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_two_hundred_rollouts_in_one_store_are_followed_each(tmp_path: Path, path: Path, backend: str) -> None:
    names = [f"shop{n}" for n in range(200)]
    asked = [ask(f"user-{m}", rollout=name, path=f"/{n}") for m in range(20) for n, name in enumerate(names)]
    in_force = {name: InForce() for name in names}
    with ExitStack() as stack:
        url = sqlite(path) if backend == "sqlite" else stack.enter_context(RedisServer()).url
        shop = stack.enter_context(service(url, tmp_path, env={"ROLLOUTS": "200"}, asked=asked, in_force=in_force))
        shop.is_registered(*names)
        for n, name in enumerate(names):
            shop.begin_to_set(n / 2, name)
        shop.is_acknowledged(*names)
        shop.answers()
        for name in names[::2]:
            in_force[name].changing_to(0)
            shop.control.change(name, "emergency", transitions.lock, actor="ada")
        shop.is_acknowledged(*names[::2])
