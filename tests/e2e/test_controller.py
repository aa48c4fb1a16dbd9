"""
A rollout that nobody touches after its start: v2 climbs while it is good, and goes when it fails, on every front door.

The decisions are those of whichever worker leads; there are no guardrails in the way.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from canary_middleware._core.lifecycle import transitions
from canary_middleware.stores import open_store
from canary_middleware.stores.changes import Control
from tests.support import servers
from tests.support.wait import eventually

from .test_guardrails import FRONTS, Load, read, store_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAN: Final = {
    "stages": [10, 50, 100],
    "duration": "2s",
    "bake": "1s",
    # Wide margins: a test has seconds, not hours, and a machine that does other things too.
    "criteria": {"error_rate": {"max_increase": 0.05}, "p95": {"max_increase": "100ms"}, "min_requests": 50},
}


class Service:
    """The app of ``guarded`` under PLAN, served, with load upon it."""

    def __init__(self, control: Control, load: Load, journal: Path, breaks: Path, server: Any) -> None:
        self.control, self.load, self.journal, self.breaks, self.server = control, load, journal, breaks, server

    def start(self) -> None:
        self.load.more(500)
        eventually(lambda: self.control.knows("shop"))
        self.control.change("shop", "start", transitions.start, actor="test")

    def reach(self, *, stage: int = -1, phase: str = "", timeout: float = 60) -> None:
        """Wait until the rollout is at least in that stage, or in that phase."""

        def is_there() -> bool:
            rollout = self.control.rollout("shop")
            return rollout.stage >= stage if stage >= 0 else rollout.phase == phase

        eventually(is_there, timeout=timeout, message=lambda: f"{self.told()}\n{self.server.logs()}")

    def told(self) -> list[str]:
        return [f"{e.actor} {e.verb}: {e.reason}" for e in reversed(self.control.store.history("shop"))]


@contextmanager
def serving(name: str, tmp_path: Path, **environ: str) -> Iterator[Service]:
    target, path = FRONTS[name]
    journal, breaks = tmp_path / "journal", tmp_path / "break"
    with ExitStack() as stack:
        url, workers = stack.enter_context(store_for(name, tmp_path))
        env = {"CANARY_STORE": url, "JOURNAL": str(journal), "BREAK": str(breaks), "PLAN": json.dumps(PLAN), **environ}
        serve = servers.gunicorn if workers == 4 else servers.uvicorn
        server = stack.enter_context(serve(target, workers=workers, env=env))
        control = Control(open_store(url))
        stack.callback(control.store.close)
        load = stack.enter_context(Load(server.url, path))
        yield Service(control, load, journal, breaks, server)


@pytest.mark.parametrize("name", FRONTS)
def test_v2_climbs_by_evidence_and_is_rolled_back_by_evidence(name: str, tmp_path: Path) -> None:
    with serving(name, tmp_path) as service:
        service.start()
        service.reach(stage=1)
        service.breaks.touch()
        service.reach(phase="rolled_back", timeout=20)
        told_s = read(service.journal)[-1].ended_s
        eventually(lambda: read(service.journal)[-1].ended_s > told_s + 1.5)
        service.load.more(50)
        history = service.control.store.history("shop")
    lines = read(service.journal)

    assert service.load.errors == []
    assert {status for status, _ in service.load.answers} == {200}
    assert [line for line in lines if line.version != "v1" and line.assigned_s > told_s + 1.0] == []
    advance = next(event for event in history if event.verb == "advance")
    assert advance.actor == "controller"
    assert "shown after" in advance.reason
    (rollback,) = [event for event in history if event.verb == "rollback"]
    assert rollback.actor == "controller"
    assert rollback.reason.startswith("v2 fails more often than v1")
    assert rollback.evidence["e"]["rollback"] >= 100


def test_v2_reaches_everybody_bakes_and_completes(tmp_path: Path) -> None:
    with serving("flask", tmp_path) as service:
        service.start()
        service.reach(phase="completed")
        service.load.more(50)

        moves = [line.split(":")[0] for line in service.told() if line.startswith("controller")]
        assert [move for move in moves if move != "controller hold"] == [
            *["controller advance"] * 3,
            "controller complete",
        ]
        assert {text for _, text in service.load.answers[-20:]} == {"v2"}
    assert service.load.errors == []


def test_the_leading_worker_is_killed_and_another_goes_on(tmp_path: Path) -> None:
    with serving("flask", tmp_path) as service:
        service.start()
        leader = eventually(lambda: _holder(tmp_path))
        os.kill(int(leader.split(":")[1]), signal.SIGKILL)
        service.reach(stage=1)

        assert _holder(tmp_path) != leader
    assert {status for status, _ in service.load.answers} == {200}


def _holder(tmp_path: Path) -> str:
    import sqlite3

    with sqlite3.connect(tmp_path / "canary.db") as db:
        found = db.execute("SELECT holder FROM leases WHERE name = 'controller'").fetchone()
    return found[0] if found else ""


def test_canary_run_decides_where_the_workers_do_not(tmp_path: Path) -> None:
    with serving("flask", tmp_path, CANARY_CONTROLLER="off") as service:
        service.start()
        service.load.more(3000)
        assert service.control.rollout("shop").stage == 0

        command = [sys.executable, "-m", "canary_middleware.cli", "run", "--store", service.control.store.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            service.reach(stage=1)
            service.breaks.touch()
            service.reach(phase="rolled_back", timeout=20)
            run.send_signal(signal.SIGTERM)
            output, _ = run.communicate(timeout=20)

    assert run.returncode == 0
    assert "this process decides" in output
    assert "shop: advance: shown after" in output
    assert "shop: rollback: v2 fails more often than v1" in output
