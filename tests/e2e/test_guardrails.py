"""
v2 begins to fail every request, at weight 10 and under load: who still gets it, and who notices.

In the process that trips nobody, from the deciding failure on; in all others nobody after a second; no user an error.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware.stores import open_store
from canary_middleware.stores.changes import Control
from tests.support import servers
from tests.support.client import Client
from tests.support.load import Ongoing
from tests.support.redis_server import RedisServer
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from canary_middleware._core.lifecycle.records import Event

APP: Final = "tests.e2e.apps.guarded"
CONNECTIONS: Final = 4
USERS: Final = 1_000

FRONTS: Final = {
    "wsgi": (f"{APP}:wsgi_app", "/"),
    "flask": (f"{APP}:flask_app", "/"),
    "flask-redis": (f"{APP}:flask_app", "/"),
    "django-sync": (f"{APP}_django:wsgi_app", "/"),
    "asgi": (f"{APP}:asgi_app", "/"),
    "fastapi": (f"{APP}:fastapi_app", "/"),
    "django-async": (f"{APP}_django:asgi_app", "/async"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the app's journal. *version*: ``failed`` where v2 raised and v1 answered."""

    version: str
    assigned_s: float
    ended_s: float
    pid: int
    phase: str


class Load(Ongoing):
    """Requests of many users over a few connections, until it is left; keeps what each got."""

    def __init__(self, url: str, path: str) -> None:
        super().__init__(CONNECTIONS)
        self.answers: list[tuple[int, str]] = []
        self._url = url
        self._path = path

    def send(self, number: int) -> None:
        while not self.is_over:
            # A new connection may reach another worker.
            with Client(self._url) as client:
                for _ in range(20):
                    number = (number + CONNECTIONS) % USERS
                    answer = client.get(self._path, x_user_id=f"user-{number}")
                    self.answers.append((answer.status, answer.text))

    def more(self, requests: int) -> None:
        """Wait for that many further answers."""
        wanted = len(self.answers) + requests
        eventually(lambda: self.errors or len(self.answers) >= wanted, timeout=60)


@contextmanager
def store_for(name: str, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Where the rollout lives, and how many processes serve it."""
    if FRONTS[name][0].endswith("wsgi_app") or name == "flask":
        yield f"sqlite:///{tmp_path}/canary.db", 4
    else:
        with RedisServer() as redis:
            yield redis.url, 4 if name == "flask-redis" else 2


@pytest.mark.parametrize("name", FRONTS)
def test_a_canary_that_begins_to_fail_is_stopped_here_at_once_and_everywhere_within_a_second(
    name: str, tmp_path: Path
) -> None:
    target, path = FRONTS[name]
    journal, breaks = tmp_path / "journal", tmp_path / "break"
    with ExitStack() as stack:
        url, workers = stack.enter_context(store_for(name, tmp_path))
        env = {"CANARY_STORE": url, "JOURNAL": str(journal), "BREAK": str(breaks)}
        serve = servers.gunicorn if workers == 4 else servers.uvicorn
        server = stack.enter_context(serve(target, workers=workers, env=env))
        control = Control(open_store(url))
        stack.callback(control.store.close)
        load = stack.enter_context(Load(server.url, path))
        load.more(50)
        eventually(lambda: control.knows("shop"))
        control.change("shop", "set", partial(transitions.set_weight, weight_ppm=100_000), actor="test")
        eventually(lambda: {line.pid for line in read(journal) if line.version == "v2"} >= set(server.worker_pids()))
        breaks.touch()
        eventually(lambda: control.rollout("shop").phase == "rolled_back", timeout=20, message=server.logs)
        told_s = read(journal)[-1].ended_s
        eventually(lambda: read(journal)[-1].ended_s > told_s + 1.5)
        load.more(50)
        history = control.store.history("shop")
    lines = read(journal)

    assert load.errors == []
    assert {status for status, _ in load.answers} == {200}
    given = [line for line in lines if line.version != "v1"]
    stopped = {line.pid: line.ended_s for line in reversed(lines) if line.phase == "rolled_back"}
    assert set(stopped) == {line.pid for line in given}
    assert [line for line in given if line.assigned_s > stopped[line.pid]] == []
    assert [line for line in given if line.assigned_s > min(stopped.values()) + 1.0] == []
    (rollback,) = [event for event in history if event.verb == "rollback"]
    # Where requests are served at the same time, others may have been under way when it was decided.
    is_evidence(rollback, given, under_way=0 if workers == 4 else CONNECTIONS - 1)


def is_evidence(event: Event, given: list[Line], under_way: int) -> None:
    """The audit line says who, why and by which outcomes; and no further ones went to v2 where it was decided."""
    assert event.actor == "guardrail"
    assert "requests to v2" in event.reason
    assert event.after["weight_ppm"] == 0
    pid = int(event.evidence["worker"].split(":")[1])
    failed = [line for line in given if line.pid == pid and line.version == "failed"]
    assert 0 <= len(failed) - event.evidence["bad"] <= under_way
    assert event.evidence["bad"] <= 10
    assert {outcome["error"] for outcome in event.evidence["outcomes"]} == {"Broken"}


def read(journal: Path) -> list[Line]:
    """What has been written so far, in the order of its writing; of the last line perhaps only a part."""
    lines = [line.split() for line in journal.read_text().rpartition("\n")[0].splitlines()]
    return [Line(version, float(begun), float(ended), int(pid), phase) for version, begun, ended, pid, phase in lines]
