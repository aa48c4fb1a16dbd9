"""The audit trail of each store has a bound, and within it is complete."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from canary_middleware.stores import open_store
from canary_middleware.stores._codec import EVENTS_KEPT
from canary_middleware.stores.contract import an_event, put
from canary_middleware.stores.memory import MemoryStore
from canary_middleware.stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

    from canary_middleware._core.ports import Store
    from tests.support.redis_server import RedisServer

MORE = EVENTS_KEPT + 5
TEXT = json.dumps({**asdict(an_event()), "verb": "old"})


def in_memory() -> Store:
    store = MemoryStore()
    for _ in range(MORE):
        store._append("checkout", TEXT)
    return store


def in_sqlite(path: Path) -> Store:
    store = SQLiteStore(path)
    with store._transaction() as connection:
        connection.executemany("INSERT INTO events (rollout, event) VALUES (?, ?)", [("checkout", TEXT)] * MORE)
    return store


def in_redis(server: RedisServer) -> Store:
    server.command("FLUSHALL")
    push = "for _ = 1, ARGV[1] do for _, key in ipairs(KEYS) do redis.call('LPUSH', key, ARGV[2]) end end"
    server.command("EVAL", push, "2", "{canary}:events", "{canary}:events:checkout", str(MORE), TEXT)
    return open_store(server.url)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def full(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> Store:
    """A store with a few more lines of ``checkout`` than it keeps."""
    if request.param == "memory":
        return in_memory()
    return in_sqlite(tmp_path / "db") if request.param == "sqlite" else in_redis(redis_server)


def test_the_oldest_lines_of_a_rollout_give_way_to_its_newest(full: Store) -> None:
    full.log(an_event("search", verb="check"))
    put(full)
    full.log(an_event(verb="check"))

    own = full.history("checkout", 2 * MORE)
    assert len(own) == EVENTS_KEPT
    assert [event.verb for event in own[:3]] == ["check", "set", "old"]
    assert [event.verb for event in full.history("search")] == ["check"]
    full.close()
