"""A websocket behaves as without us; its handshake names the version, and its end is counted once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from canary_middleware import anonymous, current
from canary_middleware.asgi import CanaryMiddleware, apps
from canary_middleware.testing import FakeClock, Outcome, recorded

from .traces import MODES, Trace, asgi_trace, make, websocket_scope

CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-app", b"1")]}
CLOSE = {"type": "websocket.close", "code": 1000, "reason": "bye"}
GONE = {"type": "websocket.disconnect", "code": 1001}
SAY = {"type": "websocket.send", "text": "hello"}
HEARD = {"type": "websocket.receive", "bytes": b"hello"}
DENIAL = (
    {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-app", b"1")]},
    {"type": "websocket.http.response.body", "body": b"who", "more_body": True},
    {"type": "websocket.http.response.body", "body": b" are you"},
)


class Late(Exception):
    """What the apps below raise."""


def does(*steps: Any) -> Any:
    """An app that sends messages, receives at ``"receive"``, and raises exceptions."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for step in steps:
            if step == "receive":
                scope["test.log"].append(await receive())
            elif isinstance(step, dict):
                await send(dict(step))
            else:
                raise step

    return app


def seen(app: Any, mode: str, **options: Any) -> tuple[Trace, list[Outcome]]:
    canary = MODES[mode]()
    with recorded(canary) as outcomes:
        trace = asyncio.run(asgi_trace(CanaryMiddleware(app, canary=canary), scope=websocket_scope(), **options))
    return trace, outcomes


# steps, what the server delivers, (status, error_type, is_aborted)
TALKS: dict[str, tuple[Any, Any, tuple[int, str | None, bool]]] = {
    "echo": (("receive", ACCEPT, "receive", SAY, CLOSE), (CONNECT, HEARD), (101, None, False)),
    "client leaves": (("receive", ACCEPT, SAY, "receive"), (CONNECT, GONE), (101, None, False)),
    "client leaves and the app complains": (
        ("receive", ACCEPT, "receive", Late),
        (CONNECT, GONE),
        (101, None, False),
    ),
    "client leaves before the handshake": (("receive", "receive"), (CONNECT, GONE), (0, None, True)),
    "refused": (("receive", CLOSE), (CONNECT,), (403, None, False)),
    "refused with an answer": (("receive", *DENIAL), (CONNECT,), (401, None, False)),
    "breaks off": (("receive", ACCEPT, {**CLOSE, "code": 1011}), (CONNECT,), (101, "1011", False)),
    "raises before the handshake": (("receive", Late), (CONNECT,), (500, "Late", False)),
    "raises after it": (("receive", ACCEPT, SAY, Late), (CONNECT,), (500, "Late", False)),
    "says nothing": (("receive",), (CONNECT,), (500, "500", False)),
    "forgets to close": (("receive", ACCEPT, SAY), (CONNECT,), (101, None, False)),
    "unknown message": (("receive", ACCEPT, {"type": "websocket.ping"}, CLOSE), (CONNECT,), (101, None, False)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TALKS)
def test_the_server_sees_what_it_sees_without_us(name: str, mode: str) -> None:
    steps, messages, (status, error_type, is_aborted) = TALKS[name]
    bare = asyncio.run(asgi_trace(does(*steps), scope=websocket_scope(), messages=messages))

    ours, outcomes = seen(does(*steps), mode, messages=messages)

    assert (ours.calls, ours.log, ours.error) == (bare.calls, bare.log, bare.error)
    expected = [] if mode == "uncovered" else [(status, error_type, is_aborted, "WEBSOCKET")]
    assert [(o.status, o.error_type, o.is_aborted, o.method) for o in outcomes] == expected


@pytest.mark.parametrize(
    ("steps", "message"), [((ACCEPT, CLOSE), 0), (DENIAL, 0)], ids=["accepted", "refused with an answer"]
)
def test_the_handshake_names_the_version(steps: Any, message: int) -> None:
    sent: list[Any] = []

    async def send(item: Any) -> None:
        sent.append(item)

    async def receive() -> Any:
        return CONNECT

    asyncio.run(CanaryMiddleware(apps(does(), does(*steps)), canary=make())(websocket_scope(), receive, send))

    assert sent[message]["headers"][0] == (b"x-app", b"1")
    assert (b"x-canary-version", b"v2") in sent[message]["headers"]
    assert steps[message]["headers"] == [(b"x-app", b"1")]


def test_the_handshake_gives_a_visitor_without_an_id_the_cookie_by_which_it_was_assigned() -> None:
    canary = make(weight=50, key=[anonymous(secret="s")])
    accepted: list[list[tuple[bytes, bytes]]] = []

    async def send(item: Any) -> None:
        accepted.append(item["headers"])

    async def receive() -> Any:
        return CONNECT

    app = CanaryMiddleware(does(ACCEPT), canary=canary)
    asyncio.run(app(websocket_scope(), receive, send))
    (cookie,) = [value for name, value in accepted[0] if name == b"set-cookie"]
    asyncio.run(app(websocket_scope(headers=[(b"cookie", cookie.partition(b";")[0])]), receive, send))

    first, second = (dict(headers) for headers in accepted)
    assert first[b"x-canary-version"] == second[b"x-canary-version"]
    assert b"cache-control" not in first
    assert b"set-cookie" not in second


@pytest.mark.parametrize(("fails_after", "is_aborted"), [(0, True), (1, False), (2, False)])
def test_a_send_that_fails_because_the_client_left_is_passed_on_and_is_no_failure(
    fails_after: int, is_aborted: bool
) -> None:
    app = does("receive", ACCEPT, SAY, SAY)

    trace, outcomes = seen(app, "guarded", messages=[CONNECT], fails_after=fails_after)

    assert trace.error is OSError
    assert [(o.is_aborted, o.error_type) for o in outcomes] == [(is_aborted, None)]


def test_its_duration_is_that_of_the_handshake_and_its_code_knows_its_version() -> None:
    clock = FakeClock()
    versions: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        clock.advance(0.5)
        await send(dict(ACCEPT))
        clock.advance(3600)
        versions.append(scope["state"]["canary"].version)
        versions.append(current().version)
        await send(dict(CLOSE))

    canary = make(clock=clock)
    with recorded(canary) as outcomes:
        asyncio.run(asgi_trace(CanaryMiddleware(app, canary=canary), scope=websocket_scope(), messages=[CONNECT]))

    assert versions == ["v2", "v2"]
    assert [o.duration_s for o in outcomes] == [0.5]


@pytest.mark.parametrize("steps", [("receive",), ("receive", ACCEPT, SAY)])
def test_a_cancelled_websocket_is_aborted(steps: Any) -> None:
    canary = make()

    async def check() -> None:
        is_waiting = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await does(*steps)(scope, receive, send)
            is_waiting.set()
            await asyncio.Event().wait()

        served = asgi_trace(CanaryMiddleware(app, canary=canary), scope=websocket_scope(), messages=[CONNECT])
        task = asyncio.ensure_future(served)
        await asyncio.wait_for(is_waiting.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with recorded(canary) as outcomes:
        asyncio.run(check())

    assert [o.is_aborted for o in outcomes] == [True]
