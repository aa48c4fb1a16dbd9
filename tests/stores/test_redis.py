"""What can happen to a Redis, and what the operator is told; each with a real server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from canary_middleware.errors import StaleRevision, StoreUnavailable
from canary_middleware.stores import open_store
from canary_middleware.stores.contract import StoreContract, a_record, a_worker, an_event, put
from tests.support.redis_server import RedisServer, free_port
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from canary_middleware._core.ports import Store

# A call that fails may wait for a connection, a handshake and an answer; the rest is a busy machine.
BOUND_S = 3.0


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.command("FLUSHALL")
    return redis_server


@pytest.fixture
def store(server: RedisServer) -> Iterator[Store]:
    store = open_store(server.url)
    yield store
    store.close()


@pytest.fixture(scope="class")
def cluster() -> Iterator[RedisServer]:
    with RedisServer(arguments=("--cluster-enabled", "yes")) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        eventually(lambda: "cluster_state:ok" in server.command("CLUSTER", "INFO"))
        yield server


class TestCluster(StoreContract):
    """In cluster mode a script that touched two slots would be refused."""

    @pytest.fixture(autouse=True)
    def _place(self, cluster: RedisServer) -> None:
        cluster.command("FLUSHALL")
        self.place = f"redis+cluster://127.0.0.1:{cluster.port}"

    def open(self) -> Store:
        return open_store(self.place)


def test_sentinels_are_asked_for_the_primary(server: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
    with RedisServer(port=port, config=str(config), arguments=("--sentinel",)):
        store = open_store(f"redis+sentinel://127.0.0.1:{port}/main/0")
        put(store)

        assert store.read() is not None
        assert server.command("EXISTS", "{canary}:rollouts").startswith(":1")
        store.close()

        unknown = open_store(f"redis+sentinel://127.0.0.1:{port}/mian/0")
        with pytest.raises(StoreUnavailable, match="SENTINEL MASTERS"):
            unknown.read()
        unknown.close()


def test_an_idle_worker_sends_less_than_five_commands_a_second(server: RedisServer, store: Store) -> None:
    put(store)
    found = store.read()
    assert found is not None
    store.beat(a_worker())
    before = server.commands_processed()

    # Ten seconds of a follower's life: four readings a second, a look at the clock each, a beat every two.
    for quarter in range(40):
        assert store.read(found[0]) is None
        if quarter % 4 == 0:
            store.now()
        if quarter % 8 == 0:
            store.beat(a_worker())

    assert server.commands_processed() - before - 1 <= 50


def test_a_flush_is_another_generation(server: RedisServer, store: Store) -> None:
    put(store)
    before = store.read()
    assert before is not None
    server.command("FLUSHALL")

    emptied = store.read(before[0])
    assert emptied is not None
    assert dict(emptied[1]) == {}
    put(store)
    again = store.read(before[0])

    assert again is not None
    assert len({before[0], emptied[0], again[0]}) == 3


def test_a_token_grows_even_when_redis_forgot_the_last_one(server: RedisServer, store: Store) -> None:
    first = store.acquire("judge", "a", 30)
    server.command("FLUSHALL")

    second = store.acquire("judge", "b", 30)

    assert first is not None
    assert second is not None
    assert second > first


def test_prefixes_are_apart(server: RedisServer, store: Store) -> None:
    other = open_store(f"{server.url}?prefix=shop")
    put(store)
    put(other, "search")

    found = other.read()

    assert found is not None
    assert set(found[1]) == {"search"}
    assert server.command("KEYS", "{shop}:*").startswith("*3")
    other.close()


def test_a_write_that_is_repeated_after_a_lost_answer_is_no_lost_race(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    put(store)
    really = redis.Redis.evalsha
    lost = [True]

    def answer_lost(self: redis.Redis, *args: object) -> object:
        answer = really(self, *args)  # type: ignore[arg-type]
        if lost:
            lost.pop()
            raise redis.ConnectionError("connection reset")
        return answer

    monkeypatch.setattr(redis.Redis, "evalsha", answer_lost)
    put(store, revision=1)
    lost.append(True)
    store.log(an_event(verb="check"))

    assert [event.verb for event in store.history()] == ["check", "set", "set"]
    with pytest.raises(StaleRevision):
        put(store, revision=1)


def test_a_server_that_is_down_says_so_and_is_found_again() -> None:
    with RedisServer(is_kept=True) as server:
        store = open_store(server.url)
        put(store)
        found = store.read()
        assert found is not None
        server.stop()

        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="cannot be reached: start it"):
            store.read(found[0])
        with pytest.raises(StoreUnavailable):
            put(store, revision=1)
        assert time.monotonic() - begun < BOUND_S

        server.start()
        assert store.read(found[0]) is None
        put(store, revision=1)
        server.kill()
        server.start()
        # Its connection died with the server, its scripts and its last second perhaps too: the call comes through.
        assert store.read() is not None
        server.restart_empty()
        emptied = store.read(found[0])
        assert emptied is not None
        assert dict(emptied[1]) == {}
        put(store)
        store.close()


def test_a_slow_server_is_not_waited_for(server: RedisServer, store: Store) -> None:
    put(store)
    server.command("CLIENT", "PAUSE", "60000", "ALL")
    try:
        for call in (store.read, lambda: put(store, revision=1), lambda: store.beat(a_worker())):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match="did not answer in time"):
                call()
            assert time.monotonic() - begun < BOUND_S
    finally:
        # Paused, it would not even carry out UNPAUSE.
        server.restart_empty()
    assert store.read() is not None


def test_a_frozen_server_is_not_waited_for(server: RedisServer) -> None:
    store = open_store(server.url)
    server.freeze()
    try:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            store.read()
        assert time.monotonic() - begun < BOUND_S
    finally:
        server.thaw()
    assert store.read() is not None
    store.close()


@pytest.mark.parametrize(
    ("userinfo", "said"),
    [
        (":wr0ngsecret@", "refused user or password"),
        ("me:wr0ngsecret@", "refused user or password"),
        ("", "wants a password"),
    ],
)
def test_a_wrong_password_says_so_and_is_not_shown(userinfo: str, said: str) -> None:
    with RedisServer(password="r1ghtsecret") as server:
        store = open_store(f"redis://{userinfo}127.0.0.1:{server.port}")
        with pytest.raises(StoreUnavailable, match=said) as caught:
            store.read()
        assert "secret" not in str(caught.value) + store.url + repr(store)
        store.close()

        store = open_store(server.url)
        put(store)
        assert "secret" not in store.url
        store.close()


@pytest.mark.parametrize(
    ("arrange", "undo", "said"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "is a replica"),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "no memory left"),
    ],
)
def test_a_server_that_refuses_writes_says_why(
    server: RedisServer, store: Store, arrange: tuple[str, ...], undo: tuple[str, ...], said: str
) -> None:
    put(store)
    server.command(*arrange)
    try:
        with pytest.raises(StoreUnavailable, match=said):
            put(store, revision=1)
        found = store.read()
        assert found is not None
        assert found[1]["checkout"] == a_record()
    finally:
        server.command(*undo)
    put(store, revision=1)


def test_a_silent_worker_is_forgotten(server: RedisServer, store: Store) -> None:
    store.beat(a_worker("silent"))
    assert 55 <= int(server.command("TTL", "{canary}:worker:silent")[1:]) <= 60
    server.command("PEXPIRE", "{canary}:worker:silent", "1")
    eventually(lambda: store.workers() == [])

    store.beat(a_worker("new"))

    # The index does not keep the dead either.
    assert server.command("SMEMBERS", "{canary}:workers").split("\r\n")[2] == "new"


def test_a_sweep_merges_what_has_aged(server: RedisServer, store: Store) -> None:
    now_s = int(store.now())
    old_s = now_s - now_s % 60 - 600
    for window_s in (old_s, old_s + 1):
        server.command("HSET", f"{{canary}}:window:{window_s}", "x", '{"3":2,"s":0.25}')
        server.command("ZADD", "{canary}:windows", str(window_s), str(window_s))

    store.add_counts("w", 1, now_s, {"x": {"s": 1.0, "3": 1}})

    assert [dict(plain) for _, plain in store.counts()] == [{"x": {"s": 0.5, "3": 4}}, {"x": {"s": 1.0, "3": 1}}]
    assert store.counts()[0][0] == old_s
    assert int(server.command("TTL", f"{{canary}}:window:{old_s}")[1:]) > 0
