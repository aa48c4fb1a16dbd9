"""A plan file edited under traffic: every worker of a real server goes by one plan, and no request fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, open_store
from canary_middleware._core.lifecycle import transitions
from canary_middleware.stores.changes import Control
from tests.support import servers
from tests.support.client import Client
from tests.support.load import Ongoing
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from canary_middleware._core.lifecycle.records import Event, Worker
    from canary_middleware._core.lifecycle.rollout import Rollout
    from tests.support.servers import Server

APPS = "tests.e2e.apps.planned"
STAGES = "stages = [10, 50, 100]"
USERS = [f"user-{n}" for n in range(60)]
# Two looks at the file, a reading of the store and a beat; a busy machine takes longer.
SOON_S = 15.0


def text(*lines: str, store: str = "") -> str:
    return "\n".join([f'store = "{store}"' * bool(store), "[rollout.shop]", 'key = ["header:x-user"]', STAGES, *lines])


SERVERS: dict[str, Callable[..., Any]] = {
    "gunicorn": lambda **o: servers.gunicorn(f"{APPS}:wsgi_app", workers=2, **o),
    "gunicorn-preload": lambda **o: servers.gunicorn(f"{APPS}:wsgi_app", workers=2, preload=True, **o),
    "uvicorn": lambda **o: servers.uvicorn(f"{APPS}:asgi_app", workers=2, **o),
}


class Traffic(Ongoing):
    """Requests of all users, again and again on new connections, so that every worker gets some."""

    def __init__(self, url: str) -> None:
        super().__init__(2)
        self.url = url
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def send(self, number: int) -> None:
        while not self.is_over and not self.errors:
            for user in USERS[number::2]:
                with Client(self.url) as client:
                    answer = client.get("/", x_user=user)
                assert answer.status == 200
                self.seen.append((user, answer.json()))

    def processes(self, condition: Callable[[dict[str, Any]], bool], *, last: int = 200) -> set[int]:
        """Those whose latest answer fulfils *condition*."""
        latest = {answer["pid"]: answer for _, answer in self.seen[-last:]}
        return {pid for pid, answer in latest.items() if condition(answer)}

    def rounds(self, number: int = 2) -> list[tuple[str, dict[str, Any]]]:
        """What is answered from now on, for *number* rounds of all users."""
        begin = len(self.seen)
        eventually(lambda: self.errors or len(self.seen) >= begin + number * len(USERS), timeout=SOON_S)
        assert self.errors == []
        return self.seen[begin:]


class Service:
    """A running server on a plan file and a SQLite store, and the store as the command line sees it."""

    def __init__(self, server: Server, path: Path, store: str) -> None:
        self.server = server
        self.path = path
        self.url = store
        self.store = open_store(store)
        self.control = Control(self.store)

    def edit(self, *lines: str) -> None:
        self.replace(text(*lines, store=self.url))

    def replace(self, content: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(content)
        fresh.replace(self.path)

    def change(self, verb: str, transition: Callable[[Rollout], Rollout]) -> Rollout:
        return self.control.change("shop", verb, transition, actor="ada")

    def plans(self) -> list[Event]:
        return [event for event in self.store.history("shop") if event.verb == "plan"]

    def workers(self, number: int = 2) -> Sequence[Worker]:
        """All workers, once they serve what the store holds."""
        assert self.control.knows("shop")
        found = self.store.workers()
        revision = self.control.rollout("shop").revision
        assert [worker.revisions["shop"] for worker in found] == [revision] * number
        return found


@pytest.fixture(params=SERVERS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    path, store = tmp_path / "canary.toml", f"sqlite:///{tmp_path}/canary.db"
    path.write_text(text(store=store))
    env = {"PLAN_FILE": str(path), "OTEL_SDK_DISABLED": "true", "TMPDIR": str(tmp_path)}
    with SERVERS[request.param](env=env) as server:
        found = Service(server, path, store)
        yield found
        found.store.close()


def test_an_edit_under_traffic_pauses_every_worker_with_one_event_and_no_error(service: Service) -> None:
    with Traffic(service.server.url) as traffic:
        eventually(lambda: len(service.workers()) == 2, timeout=SOON_S)
        service.change("stage", lambda r: transitions.go_to_stage(r, 1))
        eventually(service.workers, timeout=SOON_S)
        before = traffic.rounds()
        service.edit('salt = "other"')
        eventually(lambda: len(traffic.processes(lambda a: a["reason"] == "config_changed")) == 2, timeout=SOON_S)
        eventually(service.workers, timeout=SOON_S)
        after = traffic.rounds()

    assert traffic.errors == []
    [event] = service.plans()
    assert event.actor.startswith("plan file (")
    assert event.reason.startswith("canary.toml: salt; ")
    assert event.evidence["keys"] == ["salt"]
    rollout = service.control.rollout("shop")
    assert (rollout.phase, rollout.phase_reason, rollout.weight_ppm) == ("paused", "config_changed", 500_000)
    for salt, answers in (("shop", before), ("other", after)):
        by_hash = Canary("shop", weight=50, salt=salt, environ={})
        assert {(user, answer["version"]) for user, answer in answers} == {(u, by_hash.version_for(u)) for u in USERS}
        assert {answer["salt"] for _, answer in answers} == {salt}


def test_a_broken_edit_is_in_every_workers_heartbeat_and_changes_nothing(service: Service) -> None:
    with Traffic(service.server.url) as traffic:
        eventually(lambda: len(service.workers()) == 2, timeout=SOON_S)
        service.change("start", transitions.start)
        eventually(service.workers, timeout=SOON_S)
        # Not replaced but written into: what is there for a moment is half of a plan, or none.
        with service.path.open("w") as file:
            file.write("[rollout.shop]\nstages = [10, ")
        eventually(lambda: all(str(service.path) in worker.note for worker in service.workers()), timeout=SOON_S)
        assert all("is no TOML" in worker.note for worker in service.workers())
        broken = traffic.rounds()
        service.edit("# mended", 'end_of_life = { successor = "/v2" }')
        eventually(lambda: [worker.note for worker in service.workers()] == ["", ""], timeout=SOON_S)
        eventually(lambda: len(service.plans()) == 1, timeout=SOON_S)
        traffic.rounds()

    assert traffic.errors == []
    assert {(answer["phase"], answer["salt"]) for _, answer in broken} == {("progressing", "shop")}
    assert service.control.rollout("shop").phase == "progressing"
    assert service.plans()[0].reason == "canary.toml: end_of_life"


def test_hosts_with_different_files_serve_one_plan_and_say_which_of_them_differ(tmp_path: Path) -> None:
    """A rolling deploy: one host has the new file already, and workers are replaced on both."""
    store = f"sqlite:///{tmp_path}/canary.db"
    env = {"OTEL_SDK_DISABLED": "true", "TMPDIR": str(tmp_path)}

    def host(name: str, *lines: str) -> Any:
        path = tmp_path / f"{name}.toml"
        path.write_text(text(*lines, store=store))
        return servers.gunicorn(f"{APPS}:wsgi_app", workers=1, env={**env, "PLAN_FILE": str(path)})

    with host("old") as old, Traffic(old.url) as here:
        service = Service(old, tmp_path / "old.toml", store)
        eventually(lambda: len(service.workers(1)) == 1, timeout=SOON_S)
        service.change("start", transitions.start)
        with host("new", 'salt = "other"') as new, Traffic(new.url) as there:
            eventually(
                lambda: sorted(bool(worker.note) for worker in service.workers()) == [False, True], timeout=SOON_S
            )
            first, second = here.rounds(), there.rounds()
            [note] = [worker.note for worker in service.workers() if worker.note]
            assert service.plans() == []
            service.change("rollback", lambda r: transitions.roll_back(r, "errors"))
            eventually(lambda: len(service.plans()) == 1, timeout=SOON_S)
            eventually(
                lambda: {answer["salt"] for _, answer in (*here.rounds(1), *there.rounds(1))} == {"other"},
                timeout=SOON_S,
            )
            here.rounds(5)
        service.store.close()

    assert "new.toml differs from the store's plan of 'shop' (salt)" in note
    assert {answer["salt"] for _, answer in (*first, *second)} == {"shop"}
    assert {u: a["version"] for u, a in first} == {u: a["version"] for u, a in second}
    assert len(service.plans()) == 1
    assert service.control.rollout("shop").phase == "rolled_back"
    assert here.errors == there.errors == []


@pytest.mark.parametrize("name", SERVERS)
def test_without_a_store_every_worker_follows_the_file_by_itself(name: str, tmp_path: Path) -> None:
    path = tmp_path / "canary.toml"
    path.write_text(text())
    env = {"PLAN_FILE": str(path), "OTEL_SDK_DISABLED": "true"}
    with SERVERS[name](env=env) as server, Traffic(server.url) as traffic:
        eventually(lambda: len(traffic.processes(lambda a: a["salt"] == "shop")) == 2, timeout=SOON_S)
        path.write_text(text("weight = 50", 'salt = "other"'))
        eventually(lambda: len(traffic.processes(lambda a: a["salt"] == "other")) == 2, timeout=SOON_S)
        after = traffic.rounds()
        path.unlink()
        eventually(lambda: len(traffic.processes(lambda a: a["problem"] is not None)) == 2, timeout=SOON_S)
        gone = traffic.rounds()

    assert traffic.errors == []
    by_hash = Canary("shop", weight=50, salt="other", environ={})
    for answers in (after, gone):
        assert {(user, answer["version"]) for user, answer in answers} == {(u, by_hash.version_for(u)) for u in USERS}
