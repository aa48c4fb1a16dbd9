"""The command line against real servers: each change is in every worker when the command returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from canary_middleware._core.assignment.bucketing import bucket
from canary_middleware.cli import main
from tests.support.administered import SERVERS, TOKEN
from tests.support.client import Client
from tests.support.redis_server import RedisServer
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.servers import Server

USERS = [f"user-{n}" for n in range(40)]
WORKERS = {"gunicorn": 4, "gunicorn-preload": 4, "uvicorn-fastapi": 2, "flask": 1, "django": 1}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


class Terminal:
    """Types real commands."""

    def __init__(self, store: str) -> None:
        self.env = {**os.environ, "CANARY_STORE": store, "CANARY_ACTOR": "ada", "COLUMNS": "120"}

    def start(self, words: Sequence[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "canary_middleware.cli", *words]
        return subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words: str, code: int = 0) -> str:
        process = self.start(words)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, f"{words}: {process.returncode}\n{out}{err}"
        return out + err

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code))


class InProcess(Terminal):
    """Types the same commands without a process for each, where there are many."""

    def run(self, *words: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, list(words), env=self.env)
        assert result.exit_code == code, f"{words}: {result.exit_code}\n{result.output}"
        return result.output


class Service:
    """The service under test, and what its users get."""

    def __init__(self, server: Server, terminal: Terminal, workers: int) -> None:
        self.url = server.url
        self.terminal = terminal
        self.workers = workers

    def all_workers_serve(self) -> bool:
        """Ask until every worker has had its first request, which is when it begins to follow."""
        self.versions()
        said = self.terminal.json("status", code=0)
        return len(said["workers"]) == self.workers

    def versions(self) -> dict[str, str]:
        found = {}
        for user in USERS:
            # A new connection may reach another worker.
            with Client(self.url) as client:
                found[user] = client.get("/", x_user_id=user).text
        return found

    def steer(self, *words: str, weight: float) -> Any:
        """Type a change: all workers must have acknowledged it, and every user get what the weight implies."""
        changed = self.terminal.json(*words)
        result = changed[0] if isinstance(changed, list) else changed
        assert result["weight"] == weight
        assert len(result["workers"]["served"]) == self.workers
        assert result["workers"]["missing"] == []
        expected = {u: "v2" if bucket(u, salt="checkout") < weight * 10_000 else "v1" for u in USERS}
        assert self.versions() == expected
        return result


def serve(
    name: str, kind: str, redis_url: str, tmp_path: Path, terminal: type[Terminal] = Terminal
) -> tuple[Any, Terminal]:
    store = f"sqlite:///{tmp_path}/canary.db" if kind == "sqlite" else f"{redis_url}?prefix={name}-{tmp_path.name}"
    env = {"CANARY_STORE": store, "CANARY_ADMIN_TOKEN": TOKEN, "CANARY_STATE_DIR": str(tmp_path)}
    # Flask's and Django's own servers have the one process.
    more = {"workers": WORKERS[name]} if WORKERS[name] > 1 else {}
    return SERVERS[name](env=env, **more), terminal(store)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("name", WORKERS)
def test_what_a_command_changes_every_worker_serves(name: str, kind: str, redis_url: str, tmp_path: Path) -> None:
    serving, terminal = serve(name, kind, redis_url, tmp_path, InProcess)
    with serving as server:
        service = Service(server, terminal, WORKERS[name])
        eventually(service.all_workers_serve, timeout=20)

        service.steer("start", weight=10)
        service.steer("set", "35", "--reason", "looks good", weight=35)
        service.steer("rollback", "--to-previous", weight=10)
        service.steer("emergency", "on", weight=0)
        service.steer("emergency", "off", weight=0)
        service.steer("retry", weight=10)
        service.steer("next", weight=50)
        service.steer("approve", weight=50)
        service.steer("pause", weight=50)
        assert "paused (manual)" in terminal.run("status", code=3)
        service.steer("resume", weight=50)
        service.steer("stage", "1", weight=10)
        service.steer("rollback", weight=0)

        assert [stage["weight"] for stage in terminal.json("stage", "list")] == [10, 50, 100]
        assert terminal.json("explain", USERS[0])["version"] == "v1"
        assert terminal.json("export")["state"]["phase"] == "rolled_back"
        assert terminal.json("status", "--wait-for", "rolled_back", code=1)["weight"] == 0
        trail = [(row["verb"], row["actor"], row["to"]) for row in terminal.json("history", "--limit", "12")]
        assert trail == [
            ("rollback", "ada", 0),
            ("stage", "ada", 10),
            ("resume", "ada", 50),
            ("pause", "ada", 50),
            ("approve", "ada", 50),
            ("promote", "ada", 50),
            ("retry", "ada", 10),
            ("emergency", "ada", 0),
            ("emergency", "ada", 0),
            ("step-down", "ada", 10),
            ("set", "ada", 35),
            ("start", "ada", 10),
        ]


@pytest.mark.parametrize(("name", "kind"), [("gunicorn", "sqlite"), ("uvicorn-fastapi", "redis")])
def test_every_other_verb_too(name: str, kind: str, redis_url: str, tmp_path: Path) -> None:
    serving, terminal = serve(name, kind, redis_url, tmp_path)
    with serving as server:
        service = Service(server, terminal, WORKERS[name])
        eventually(service.all_workers_serve, timeout=20)

        service.steer("stage", "1", weight=10)
        service.steer("pause", "--reason", "lunch", weight=10)
        assert "paused (lunch)" in terminal.run("status", code=3)
        service.steer("resume", weight=10)
        service.steer("next", weight=50)
        service.steer("stage", "next", "--yes", weight=100)
        service.steer("stage", "2", weight=50)
        service.steer("promote", "--yes", weight=100)
        service.steer("next", weight=100)
        service.steer("next", weight=100)
        assert "completed" in terminal.run("status", "--wait-for", "completed", "--timeout", "1s")
        terminal.run("approve", code=3)
        service.steer("set", "20", weight=20)

        assert "in_progress" in terminal.run("stage", "list", "--json")
        explained = terminal.json("explain", USERS[0])
        assert explained["version"] == service.versions()[USERS[0]]
        assert terminal.json("export")["state"]["weight"] == 20
        tested = terminal.run("test", "--url", f"{server.url}/")
        assert f"{WORKERS[name]} of {WORKERS[name]} at revision" in tested
        assert terminal.json("test", "route", "--path", "/", "--user", USERS[0])["version"] == explained["version"]
        assert "identity" in terminal.run("check", "--json", code=1)
        assert "_CANARY_COMPLETE" in terminal.run("completion", "bash")
        service.steer("abort", "--reason", "enough", weight=0)
        assert terminal.json("status", code=1)["phase_reason"] == "enough"


def test_status_watch_shows_a_change_as_it_happens(redis_url: str, tmp_path: Path) -> None:
    serving, terminal = serve("gunicorn", "sqlite", redis_url, tmp_path)
    with serving as server:
        service = Service(server, terminal, WORKERS["gunicorn"])
        eventually(service.all_workers_serve, timeout=20)
        watching = terminal.start(["status", "--watch", "--json"])
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        terminal.run("start")
        weights = [first["weight"]]
        while weights[-1] != 10:
            weights.append(json.loads(watching.stdout.readline())["weight"])
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=20)

    assert weights[0] == 0
    assert watching.returncode == 0


def test_two_operators_at_once_one_wins_and_the_other_is_told(redis_url: str, tmp_path: Path) -> None:
    serving, terminal = serve("gunicorn", "redis", redis_url, tmp_path)
    with serving as server:
        service = Service(server, terminal, WORKERS["gunicorn"])
        eventually(service.all_workers_serve, timeout=20)
        before = terminal.json("status")["revision"]

        both = [terminal.start(["set", weight, "--actor", who]) for weight, who in (("20", "ann"), ("30", "bob"))]
        said = ["".join(process.communicate(timeout=30)) for process in both]

        # About one pair in three reads the same state (7 of 20 counted); else both are in force, one after the other.
        codes = sorted(process.returncode for process in both)
        rows = [row["actor"] for row in terminal.json("history")]
        assert codes in ([0, 0], [0, 3])
        assert terminal.json("status", code=3)["revision"] == before + codes.count(0)
        assert len([actor for actor in rows if actor in ("ann", "bob")]) == codes.count(0)
        if codes == [0, 3]:
            loser = next(text for text, process in zip(said, both, strict=True) if process.returncode == 3)
            assert "was changed by" in loser


def test_a_killed_worker_is_named_and_not_waited_for_twice(redis_url: str, tmp_path: Path) -> None:
    serving, terminal = serve("gunicorn", "sqlite", redis_url, tmp_path)
    with serving as server:
        service = Service(server, terminal, WORKERS["gunicorn"])
        eventually(service.all_workers_serve, timeout=20)
        victim = terminal.json("status")["workers"][0]
        os.kill(victim["pid"], signal.SIGKILL)

        at_once = terminal.run("start", code=4)
        silent = lambda: next(w["is_silent"] for w in terminal.json("status")["workers"] if w["id"] == victim["id"])  # noqa: E731
        eventually(silent, timeout=20, interval=0.5)
        later = terminal.json("next")

    assert f"missing: {victim['id']}" in at_once
    assert later["workers"]["silent"] == [victim["id"]]
    assert later["workers"]["missing"] == []
    assert later["workers"]["seconds"] < 4
