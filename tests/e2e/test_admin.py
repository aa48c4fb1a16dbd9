"""The admin API through real servers: a change is everywhere, the figures are the fleet's, none of it is counted."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from canary_middleware._core.assignment.bucketing import bucket
from tests.support import servers
from tests.support.administered import APPS, SERVERS, TOKEN
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USERS = [f"user-{n}" for n in range(100)]


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


class Steward:
    """Whoever steers the service under test."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, target: str) -> Any:
        with Client(self.url) as client:
            answer = client.get(f"/admin/canary{target}", authorization=f"Bearer {TOKEN}")
        assert answer.status == 200, answer.text
        return answer.json()

    def post(self, target: str, **body: Any) -> tuple[int, Any]:
        with Client(self.url) as client:
            data, given = json.dumps(body).encode(), {"content-type": "application/json"}
            given["authorization"] = f"Bearer {TOKEN}"
            answer = client.request("POST", f"/admin/canary{target}", headers=given, body=data)
        return answer.status, answer.json()


def versions(url: str) -> dict[str, str]:
    """Every user's version, each on a connection of its own, so that every worker is asked."""
    found = {}
    for user in USERS:
        with Client(url) as client:
            found[user] = client.get("/", x_user_id=user).text
    return found


def expected(weight: float) -> dict[str, str]:
    return {user: "v2" if bucket(user, salt="checkout") < weight * 10_000 else "v1" for user in USERS}


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_change_over_http_is_in_force_in_every_worker(name: str, kind: str, redis_url: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/canary.db" if kind == "sqlite" else f"{redis_url}?prefix={name}"
    env = {"CANARY_STORE": store, "CANARY_ADMIN_TOKEN": TOKEN, "CANARY_STATE_DIR": str(tmp_path)}
    with SERVERS[name](env=env) as server:
        steward = Steward(server.url)
        assert set(versions(server.url).values()) == {"v1"}

        for verb, body, weight in (("/start", {}, 10), ("/set", {"weight": 60}, 60), ("/rollback", {}, 0)):
            revision = steward.get("/status")["revision"]
            status, changed = steward.post(verb, revision=revision, wait=5, reason="by test", **body)
            assert (status, changed["weight"]) == (200, weight)
            assert changed["workers"]["served"]
            assert changed["workers"]["missing"] == []
            assert versions(server.url) == expected(weight)

        assert [row["verb"] for row in steward.get("/history?limit=3")] == ["rollback", "set", "start"]
        assert steward.post("/set", revision=0, weight=100)[0] == 409

        # Four rounds of all users, whichever worker answers; and none of the steward's own requests.
        def counted() -> int:
            split = steward.get("/metrics")["comparison"]["traffic_split"]
            return int(split["legacy_requests"] + split["canary_requests"])

        eventually(lambda: counted() == 4 * len(USERS))


def converse(url: str, path: str, headers: str, body: bytes, *, hangs_up: bool = True) -> int | None:
    """The status that a server answers to whoever sends that and no more, and *hangs_up* then; None without one."""
    address = urlsplit(url)
    head = f"POST /admin/canary{path} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nConnection: close\r\n{headers}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), 15) as connection:
        try:
            connection.sendall(head.encode() + body)
            if hangs_up:
                connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection)
            response.begin()
            response.read()
        except (ConnectionError, http.client.BadStatusLine):  # a server that closes with a body unread
            return None
    return response.status


@pytest.mark.parametrize("name", SERVERS)
def test_no_odd_body_becomes_another_order(name: str, tmp_path: Path) -> None:
    env = {"CANARY_STORE": f"sqlite:///{tmp_path}/canary.db", "CANARY_ADMIN_TOKEN": TOKEN}
    with SERVERS[name](env=env) as server:
        steward = Steward(server.url)
        assert steward.post("/set", revision=0, weight=60)[0] == 200
        off, piece = b'{"state": "off"}', b'{"to_prev'

        whole = b"10\r\n%s\r\n0\r\n\r\n" % off
        chunked = converse(server.url, "/emergency", "Transfer-Encoding: chunked", whole, hangs_up=False)
        nothing = converse(server.url, "/rollback", "Content-Length: 22", b"")
        cut = converse(server.url, "/rollback", "Content-Length: 22", piece)
        cut_chunk = converse(server.url, "/rollback", "Transfer-Encoding: chunked", b"16\r\n%s" % piece)
        no_end = converse(server.url, "/emergency", "Transfer-Encoding: chunked", b"")
        huge = converse(server.url, "/set", f"Content-Length: {10 * 2**20}", b" " * 70_000, hangs_up=False)

        assert chunked in (200, 411)
        assert {nothing, cut, cut_chunk, no_end} <= {None, 400, 411}
        assert huge in (None, 413)
        assert [row["verb"] for row in steward.get("/history")] == ["set", "register"]
        assert steward.get("/status")["weight"] == 60


@pytest.mark.parametrize("name", ["gunicorn", "uvicorn"])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_of_many_operators_at_once_one_wins_and_the_others_hear_of_it(
    name: str, kind: str, redis_url: str, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/canary.db" if kind == "sqlite" else f"{redis_url}?prefix=many-{name}"
    env = {"CANARY_STORE": store, "CANARY_ADMIN_TOKEN": TOKEN, "CANARY_STATE_DIR": str(tmp_path)}
    with SERVERS[name](env=env) as server:
        steward = Steward(server.url)
        ready = threading.Barrier(8)

        def set_to(weight: int) -> tuple[int, Any]:
            ready.wait(10)
            return steward.post("/set", revision=0, weight=weight, reason=f"number {weight}")

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(set_to, range(1, 9)))

        (winner,) = (answer for status, answer in answers if status == 200)
        losers = [problem["detail"] for status, problem in answers if status == 409]
        assert len(losers) == 7
        assert [row["to"] for row in steward.get("/history") if row["verb"] == "set"] == [winner["weight"]]
        assert steward.post("/set", revision=0, weight=9)[1]["detail"].startswith(
            f"'checkout' was changed by admin-token (set: number {winner['weight']})"
        )


@pytest.mark.parametrize("name", ["uvicorn-fastapi", "django"])
def test_mounted_by_hand_it_answers_too(name: str, tmp_path: Path) -> None:
    env = {"CANARY_STORE": f"sqlite:///{tmp_path}/canary.db", "CANARY_ADMIN_TOKEN": TOKEN}
    with SERVERS[name](env=env) as server, Client(server.url) as client:
        answer = client.get("/by-hand/status", authorization=f"Bearer {TOKEN}")
        refused = client.get("/by-hand/status")

    assert (answer.status, refused.status) == (200, 401)
    assert answer.json()["rollout"] == "checkout"


def test_a_store_that_is_away_is_said_so_and_a_rollback_is_in_force_all_the_same(tmp_path: Path) -> None:
    with RedisServer() as redis:
        env = {"CANARY_STORE": redis.url, "CANARY_ADMIN_TOKEN": TOKEN, "CANARY_STATE_DIR": str(tmp_path)}
        with servers.uvicorn(f"{APPS}:asgi_app", env=env) as server:
            versions(server.url)
            steward = Steward(server.url)
            steward.post("/set", weight=100, revision=0, wait=5)
            redis.stop()

            with Client(server.url) as client:
                figures = client.get("/admin/canary/metrics", authorization=f"Bearer {TOKEN}")
            refused, problem = steward.post("/set", weight=50, revision=1)
            stopped, state = steward.post("/rollback", reason="no time to wait")

            assert (refused, problem["title"], figures.status) == (503, "Store unavailable", 503)
            assert (stopped, state["weight"]) == (202, 0)
            assert "in force in this worker" in state["problem"]
            assert set(versions(server.url).values()) == {"v1"}
