"""Lifespans pass as they are; those of several versions run as one, and what was counted is handed over at the end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from canary_middleware.asgi import CanaryMiddleware, apps

from .traces import asgi_trace, http_scope, make

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
STARTED, STOPPED = {"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}
SERVED = [STARTED, STOPPED]


class Late(Exception):
    """What the apps below raise."""


async def lives(app: Any, **scope: Any) -> tuple[list[Any], type[BaseException] | None, dict[str, Any]]:
    """What a server sees of *app* that it starts and stops, and the state it was given."""
    sent: list[Any] = []
    waiting = [STARTUP, SHUTDOWN]

    async def receive() -> Any:
        # A server asks an app to stop only once it has started.
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}, **scope}
    error = None
    try:
        await asyncio.wait_for(app(scope, receive, send), 5)
    except Exception as raised:
        error = type(raised)
    return sent, error, scope["state"]


def app_of(name: str, log: list[str], *, breaks: str = "") -> Starlette:
    """A version that notes its life in *log*, and *breaks* at ``"start"`` or ``"stop"``."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        log.append(f"{name} starts")
        if breaks == "start":
            raise Late(name)
        yield {"pool": name}
        log.append(f"{name} stops")
        if breaks == "stop":
            raise Late(name)

    return Starlette(lifespan=lifespan)


async def without(scope: Any, receive: Any, send: Any) -> None:
    """An app that has no lifespan."""
    raise NotImplementedError(scope["type"])


async def ignores(scope: Any, receive: Any, send: Any) -> None:
    """An app that returns at once."""


class Farewell:
    """A Canary whose close is counted."""

    def __init__(self) -> None:
        self.canary = make()
        self.closed: list[int] = []
        self.canary.close = lambda timeout_s=5.0: self.closed.append(1)  # type: ignore[method-assign]


def test_an_apps_lifespan_passes_and_its_state_is_the_servers() -> None:
    log: list[str] = []
    farewell = Farewell()

    sent, error, state = asyncio.run(lives(CanaryMiddleware(app_of("a", log), canary=farewell.canary)))

    assert (sent, error, log) == (SERVED, None, ["a starts", "a stops"])
    assert state == {"pool": "a"}
    assert farewell.closed == [1]


@pytest.mark.parametrize("breaks", ["start", "stop"])
def test_a_failing_lifespan_fails_as_without_us_and_is_still_said_farewell(breaks: str) -> None:
    bare = asyncio.run(lives(app_of("a", [], breaks=breaks)))
    farewell = Farewell()

    ours = asyncio.run(lives(CanaryMiddleware(app_of("a", [], breaks=breaks), canary=farewell.canary)))

    assert [m["type"] for m in ours[0]] == [m["type"] for m in bare[0]]
    assert ours[1] == bare[1] == Late
    assert farewell.closed == [1]


@pytest.mark.parametrize("app", [without, ignores])
def test_an_app_without_lifespan_has_none_and_is_said_farewell_at_the_end_of_the_process(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", registered.append)
    farewell = Farewell()
    bare = asyncio.run(lives(app))

    ours = asyncio.run(lives(CanaryMiddleware(app, canary=farewell.canary)))

    assert ours == bare
    assert farewell.closed == []
    registered[0]()
    assert farewell.closed == [1]


def test_an_app_that_cannot_be_built_fails_its_start_as_without_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atexit.register", lambda _: None)

    class Unbuildable:
        def __init__(self, app: Any) -> None:
            raise Late("its settings are wrong")

    app = Starlette(middleware=[Middleware(Unbuildable)])

    assert asyncio.run(lives(CanaryMiddleware(app, canary=make())))[1] is Late


def test_a_signal_that_the_server_raises_again_waits_for_the_farewell() -> None:
    code = """
import os, signal
from canary_middleware._serving.lifespan import part_at_exit
signal.signal(signal.SIGTERM, lambda number, frame: print("server", flush=True))
part_at_exit(lambda: print("farewell", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.raise_signal(signal.SIGTERM)
print("shut down", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.split("\n") == ["server", "shut down", "farewell", ""]
    assert done.returncode == -signal.SIGTERM


def test_what_a_version_without_lifespan_raised_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(lives(CanaryMiddleware(apps(without, ignores), canary=make())))

    (record,) = [record for record in caplog.records if record.name == "canary_middleware"]
    assert record.exc_info is not None
    assert record.exc_info[0] is NotImplementedError
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("version stable")


def test_a_startup_that_failed_without_being_asked_is_not_taken_for_an_app_without_lifespan() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    sent, _, _ = asyncio.run(lives(CanaryMiddleware(app, canary=make())))

    assert sent == [{"type": "lifespan.startup.failed", "message": "no database"}]


def test_the_farewell_comes_before_the_shutdown_is_reported_complete() -> None:
    farewell = Farewell()
    at_end: list[int] = []

    async def check() -> None:
        waiting = [STARTUP, SHUTDOWN]

        async def receive() -> Any:
            return waiting.pop(0)

        async def send(message: Any) -> None:
            if message == STOPPED:
                at_end.append(len(farewell.closed))

        app = CanaryMiddleware(app_of("a", []), canary=farewell.canary)
        await app({"type": "lifespan", "asgi": {}, "state": {}}, receive, send)

    asyncio.run(check())

    assert at_end == [1]


def test_both_versions_lifespans_run_and_each_finds_its_own_state_in_its_requests() -> None:
    log: list[str] = []
    found: dict[str, Any] = {}

    def version(name: str) -> Any:
        inner = app_of(name, log)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                found[name] = {key: scope["state"][key] for key in scope["state"] if key != "canary"}
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body"})
            else:
                await inner(scope, receive, send)

        return app

    async def check() -> Any:
        both = apps(version("v1"), version("v2"))
        lived = await lives(CanaryMiddleware(both, canary=make()))
        for weight in (0, 100):
            scope = http_scope(state={"server": 1})
            await asgi_trace(CanaryMiddleware(both, canary=make(weight=weight)), scope=scope)
        return lived

    sent, error, state = asyncio.run(check())

    assert (sent, error, state) == (SERVED, None, {})
    assert sorted(log) == ["v1 starts", "v1 stops", "v2 starts", "v2 stops"]
    assert found == {"v1": {"server": 1, "pool": "v1"}, "v2": {"server": 1, "pool": "v2"}}


def test_a_version_that_fails_to_start_is_named_and_the_others_are_stopped() -> None:
    log: list[str] = []
    both = apps(app_of("v1", log), v2=app_of("v2", log, breaks="start"), v3=app_of("v3", log))

    sent, _, _ = asyncio.run(lives(CanaryMiddleware(both, canary=make(canary={"v2": 50, "v3": 50}))))

    assert [m["type"] for m in sent] == ["lifespan.startup.failed"]
    assert sent[0]["message"].startswith("v2: ")
    assert "Late: v2" in sent[0]["message"]
    assert sorted(log) == ["v1 starts", "v1 stops", "v2 starts", "v3 starts", "v3 stops"]


def test_a_version_that_fails_to_stop_is_named() -> None:
    log: list[str] = []
    both = apps(app_of("v1", log), v2=app_of("v2", log, breaks="stop"))

    sent, _, _ = asyncio.run(lives(CanaryMiddleware(both, canary=make())))

    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.failed"]
    assert "v2: " in sent[1]["message"]
    assert sorted(log) == ["v1 starts", "v1 stops", "v2 starts", "v2 stops"]


@pytest.mark.parametrize("app", [without, ignores])
def test_a_version_without_lifespan_does_not_stop_the_other(app: Any) -> None:
    log: list[str] = []

    sent, error, _ = asyncio.run(lives(CanaryMiddleware(apps(app, app_of("v2", log)), canary=make())))

    assert (sent, error, log) == (SERVED, None, ["v2 starts", "v2 stops"])


def test_a_server_that_gives_no_state_gets_none() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        raise NotImplementedError

    async def check() -> None:
        waiting = [STARTUP, SHUTDOWN]

        async def receive() -> Any:
            return waiting.pop(0)

        async def send(message: Any) -> None:
            pass

        await CanaryMiddleware(apps(app, app), canary=make())({"type": "lifespan", "asgi": {}}, receive, send)

    asyncio.run(check())

    assert ["state" in scope for scope in scopes] == [False, False]


def test_a_server_that_gives_up_waiting_leaves_no_task_behind() -> None:
    async def check() -> int:
        started = asyncio.Event()
        waiting = [STARTUP]

        async def receive() -> Any:
            return waiting.pop(0) if waiting else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            started.set()

        both = CanaryMiddleware(apps(app_of("v1", []), app_of("v2", [])), canary=make())
        task = asyncio.ensure_future(both({"type": "lifespan", "asgi": {}, "state": {}}, receive, send))
        await asyncio.wait_for(started.wait(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(asyncio.all_tasks())

    assert asyncio.run(check()) == 1
