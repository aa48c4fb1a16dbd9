"""What an ASGI server sees of an app is the same with us in between, message by message, except our own headers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware import anonymous, by_header, by_json, current
from canary_middleware.asgi import CanaryMiddleware, apps
from canary_middleware.testing import FakeClock, recorded

from .traces import MODES, NO_BODY, USER, Trace, asgi_trace, http_scope, make

if TYPE_CHECKING:
    from collections.abc import Callable

    from canary_middleware.testing import Outcome

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1"), (b"x-app", b"2")]}
END = {"type": "http.response.body", "body": b"end"}
SSE = {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/event-stream")]}


def chunk(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


class Late(Exception):
    """What the apps below raise."""


def sends(*messages: dict[str, Any], then: type[BaseException] | None = None) -> Any:
    """An app that reads its body, sends *messages*, and raises *then*."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        for message in messages:
            await send(dict(message))
        if then is not None:
            raise then

    return app


async def stable(scope: Any, receive: Any, send: Any) -> None:
    """Reads its whole body and answers with it."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"stable " + body})


PUSH = {"type": "http.response.push", "path": "/style.css", "headers": []}
HINT = {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]}
PATH = {"type": "http.response.pathsend", "path": "/srv/file"}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False}

ANSWERS: dict[str, tuple[dict[str, Any], ...]] = {
    "whole": (START, END),
    "stream": (START, chunk(b"a"), chunk(b""), chunk(b"b"), END),
    "empty": (START, {"type": "http.response.body"}),
    "no headers": ({"type": "http.response.start", "status": 204}, {"type": "http.response.body"}),
    "server-sent events": (SSE, chunk(b"data: 1\n\n"), END),
    "trailers": ({**START, "trailers": True}, END, {**TRAILERS, "more_trailers": True}, TRAILERS),
    "file by path": (START, PATH),
    "file by path with trailers": ({**START, "trailers": True}, PATH, TRAILERS),
    "file by descriptor": (START, {"type": "http.response.zerocopysend", "file": 3, "count": 9}),
    "early hint": (HINT, START, END),
    "push": (START, PUSH, END),
    "debug before the start": ({"type": "http.response.debug", "info": {}}, START, END),
    "unknown": (START, {"type": "http.response.from_the_future", "x": 1}, chunk(b"a"), END),
    "start only": (START,),
    "never ending": (START, chunk(b"a")),
    "too much": (START, END, END),
    "404": ({**START, "status": 404}, END),
}


def seen(app: Any, mode: str, **options: Any) -> tuple[Trace, list[Outcome]]:
    """What the server sees of *app* behind us, and what we noted of it."""
    canary = MODES[mode]()
    with recorded(canary) as outcomes:
        trace = asyncio.run(asgi_trace(CanaryMiddleware(app, canary=canary), **options))
    return trace, outcomes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ANSWERS)
def test_the_server_sees_what_it_sees_without_us(name: str, method: str, mode: str) -> None:
    app = sends(*ANSWERS[name])
    bare = asyncio.run(asgi_trace(app, scope=http_scope(method)))

    ours, outcomes = seen(app, mode, scope=http_scope(method))

    assert (ours.calls, ours.error) == (bare.calls, bare.error)
    assert [(o.is_aborted, o.error_type) for o in outcomes] == [(False, None)] * (mode != "uncovered")


@pytest.mark.parametrize("mode", ["unguarded", "stable", "uncovered"])
@pytest.mark.parametrize(
    "app",
    [sends(then=Late), sends(START, then=Late), sends({**START, "status": 503}, END), sends()],
    ids=["raises", "raises after the start", "503", "says nothing"],
)
def test_a_failure_reaches_the_server_as_it_is(app: Any, mode: str) -> None:
    bare = asyncio.run(asgi_trace(app))

    ours, outcomes = seen(app, mode)

    assert (ours.calls, ours.error) == (bare.calls, bare.error)
    assert [o.status >= 500 for o in outcomes] == [True] * (mode != "uncovered")


@pytest.mark.parametrize(
    "app",
    [
        sends(then=Late),
        sends(START, then=Late),
        sends(HINT, START, then=Late),
        sends({**START, "status": 503}, chunk(b"x"), END, then=Late),
        sends(),
    ],
    ids=["raises", "raises after the start", "raises after a hint", "503", "says nothing"],
)
def test_stable_answers_for_a_failure_before_the_first_byte(app: Any) -> None:
    canary = make()
    with recorded(canary) as outcomes:
        trace = asyncio.run(asgi_trace(CanaryMiddleware(apps(stable, app), canary=canary)))

    assert (trace.data, trace.error) == (b"stable ", None)
    assert trace.ours == {"x-canary-version", "x-canary-fallback", "vary"}
    assert [(o.fell_back, o.served_by) for o in outcomes] == [(True, "v1")]


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("reads", [0, 1, 2, 5])
def test_stable_receives_the_whole_body_however_much_the_canary_read(reads: int, pieces: int) -> None:
    async def canary_app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(reads):
            if not (await receive()).get("more_body"):
                break
        raise Late

    after: list[Any] = []

    async def stable_app(scope: Any, receive: Any, send: Any) -> None:
        await stable(scope, receive, send)
        after.append(await receive())

    parts = [{"type": "http.request", "body": b"%d" % n, "more_body": n < pieces - 1} for n in range(pieces)]
    app = CanaryMiddleware(apps(stable_app, canary_app), canary=make(fallback="idempotent"))
    trace = asyncio.run(asgi_trace(app, scope=http_scope("PUT"), messages=parts))

    assert trace.data == b"stable " + b"".join(b"%d" % n for n in range(pieces))
    assert after == [{"type": "http.disconnect"}]


def test_a_canary_whose_answer_is_dropped_reads_no_more_of_the_body() -> None:
    told: list[Any] = []

    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        told.append(await receive())
        await send(END)

    parts = [{"type": "http.request", "body": b"x" * 600, "more_body": n < 2} for n in range(3)]
    app = CanaryMiddleware(apps(stable, refuses), canary=make(fallback="idempotent", body_cap=1000))
    trace = asyncio.run(asgi_trace(app, scope=http_scope("PUT"), messages=parts))

    assert told == [{"type": "http.disconnect"}]
    assert trace.data == b"stable " + b"x" * 1800


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [tuple, iter, lambda pairs: (list(pair) for pair in pairs)])
@pytest.mark.parametrize("private", [False, True])
def test_headers_may_be_any_iterable(mode: str, kind: Callable[[Any], Any], private: bool) -> None:
    async def fresh(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({**START, "headers": kind(START["headers"])})
        await send(END)

    canary = MODES[mode]() if not private else make(key=[by_header(USER), anonymous()])
    trace = asyncio.run(asgi_trace(CanaryMiddleware(fresh, canary=canary)))

    found = [tuple(pair) for pair in trace.calls[0]["headers"] if tuple(pair) != (b"cache-control", b"private")]
    assert found == START["headers"]


@pytest.mark.parametrize("mode", MODES)
def test_the_apps_message_and_its_list_of_headers_stay_its_own(mode: str) -> None:
    message = {"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]}
    before = {**message, "headers": list(message["headers"])}  # type: ignore[call-overload]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(message)
        message["headers"].append((b"x-late", b"1"))  # type: ignore[attr-defined]
        await send(END)

    trace, _ = seen(app, mode)

    assert trace.calls[0] == before
    assert message == {**before, "headers": [(b"x-app", b"1"), (b"x-late", b"1")]}


@pytest.mark.parametrize("mode", MODES)
def test_a_scope_gains_the_assignment_in_its_state_and_nothing_else(mode: str) -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append({**scope, "state": dict(scope.get("state", {}))})
        await sends(START, END)(scope, receive, send)

    scope = http_scope(state={"pool": 1})
    expected = {**scope, "state": {"pool": 1}, "test.log": []}
    seen(app, mode, scope=scope)

    assigned = scopes[0]["state"].pop("canary", None)
    assert scopes[0] == expected
    assert (assigned is None) == (mode == "uncovered")


def test_stable_finds_the_scope_as_the_server_made_it() -> None:
    async def canary_app(scope: Any, receive: Any, send: Any) -> None:
        scope["canary.only"] = scope["state"]["canary.only"] = 1
        raise Late

    found: list[Any] = []

    async def stable_app(scope: Any, receive: Any, send: Any) -> None:
        found.append(("canary.only" in scope, "canary.only" in scope["state"], scope["state"]["canary"].version))
        await stable(scope, receive, send)

    asyncio.run(asgi_trace(CanaryMiddleware(apps(stable_app, canary_app), canary=make()), scope=http_scope(state={})))

    assert found == [(False, False, "v1")]


@pytest.mark.parametrize("mode", MODES)
def test_the_headers_of_an_event_stream_go_out_before_its_first_event(mode: str) -> None:
    async def check() -> None:
        is_started, may_go_on = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(dict(SSE))
            await may_go_on.wait()
            await send(END)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                is_started.set()

        async def receive() -> Any:
            return NO_BODY

        task = asyncio.ensure_future(CanaryMiddleware(app, canary=MODES[mode]())(http_scope(), receive, send))
        await asyncio.wait_for(is_started.wait(), 5)
        may_go_on.set()
        await task

    asyncio.run(check())


@pytest.mark.parametrize("mode", ["guarded", "unguarded", "stable"])
def test_what_an_app_does_after_the_last_byte_is_not_timed(mode: str) -> None:
    clock = FakeClock()
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        clock.advance(1.0)
        await send(dict(START))
        await send(dict(END))
        clock.advance(60.0)
        done.append(current().version)

    canary = make(
        clock=clock, fallback="never" if mode == "unguarded" else "safe-methods", weight=100 * (mode != "stable")
    )
    with recorded(canary) as outcomes:
        asyncio.run(asgi_trace(CanaryMiddleware(app, canary=canary)))

    assert [o.duration_s for o in outcomes] == [1.0]
    assert len(done) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_background_task_reaches_the_server_and_is_no_failure_of_the_request(mode: str) -> None:
    trace, outcomes = seen(sends(START, END, then=Late), mode)

    assert (trace.error, trace.data) == (Late, b"end")
    assert [(o.error_type, o.missed) for o in outcomes] == [(None, None)] * (mode != "uncovered")


@pytest.mark.parametrize("mode", ["guarded", "unguarded", "stable"])
@pytest.mark.parametrize("then", [None, Late])
def test_a_client_that_leaves_during_its_upload_is_aborted(mode: str, then: type[Exception] | None) -> None:
    half = {"type": "http.request", "body": b"half", "more_body": True}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == half
        assert (await receive())["type"] == "http.disconnect"
        if then is not None:
            raise then

    trace, outcomes = seen(app, mode, messages=[half, {"type": "http.disconnect"}])

    assert (trace.calls, trace.error) == ([], then)
    assert [(o.is_aborted, o.fell_back) for o in outcomes] == [(True, False)]


@pytest.mark.parametrize("mode", ["guarded", "unguarded", "stable"])
@pytest.mark.parametrize("fails_after", [0, 1, 2])
def test_a_send_that_fails_because_the_client_left_is_passed_on_and_aborts(mode: str, fails_after: int) -> None:
    app = sends(START, chunk(b"a"), chunk(b"b"), END)
    bare = asyncio.run(asgi_trace(app, fails_after=fails_after))

    ours, outcomes = seen(app, mode, fails_after=fails_after)

    assert (ours.calls, ours.error) == (bare.calls, OSError)
    assert [(o.is_aborted, o.fell_back) for o in outcomes] == [(True, False)]


@pytest.mark.parametrize("mode", ["guarded", "unguarded", "stable"])
@pytest.mark.parametrize("messages", [(), (START,), (START, chunk(b"a"))])
def test_a_cancelled_request_is_aborted(mode: str, messages: tuple[dict[str, Any], ...]) -> None:
    canary = MODES[mode]()

    async def check() -> None:
        is_waiting = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in messages:
                await send(dict(message))
            is_waiting.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(asgi_trace(CanaryMiddleware(app, canary=canary)))
        await asyncio.wait_for(is_waiting.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with recorded(canary) as outcomes:
        asyncio.run(check())

    assert [(o.is_aborted, o.fell_back) for o in outcomes] == [(True, False)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_an_upload_is_streamed_while_the_app_reads(mode: str, method: str) -> None:
    handed: list[int] = []
    read_at: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            more = (await receive())["more_body"]
            read_at.append(len(handed))
        await send(dict(START))
        await send(dict(END))

    async def check() -> None:
        async def receive() -> Any:
            handed.append(1)
            return {"type": "http.request", "body": b"x" * 1000, "more_body": len(handed) < 20}

        async def send(message: Any) -> None:
            pass

        await CanaryMiddleware(app, canary=MODES[mode]())(http_scope(method), receive, send)

    asyncio.run(check())

    assert read_at == list(range(1, 21))


def test_only_a_key_in_the_body_makes_us_read_it_first_and_the_app_receives_it_untouched() -> None:
    canary = make(key=[by_json("user_id")])
    parts = [
        {"type": "http.request", "body": b'{"user_id"', "more_body": True},
        {"type": "http.request", "body": b': "u"}', "more_body": False},
    ]
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.extend([await receive(), await receive()])
        await send(dict(START))
        await send(dict(END))
        got.append(await receive())

    scope = http_scope("POST", headers=[(b"content-type", b"application/json")])
    with recorded(canary) as outcomes:
        asyncio.run(asgi_trace(CanaryMiddleware(app, canary=canary), scope=scope, messages=parts))

    assert got == [*parts, {"type": "http.disconnect"}]
    assert [(o.assignment.version, o.is_aborted) for o in outcomes] == [("v2", False)]


def test_a_client_that_leaves_while_we_wait_for_its_key_is_told_to_the_app() -> None:
    canary = make(key=[by_json("user_id")])
    parts = [{"type": "http.request", "body": b'{"user', "more_body": True}, {"type": "http.disconnect"}]
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.extend([await receive(), await receive()])

    scope = http_scope("POST", headers=[(b"content-type", b"application/json")])
    with recorded(canary) as outcomes:
        asyncio.run(asgi_trace(CanaryMiddleware(app, canary=canary), scope=scope, messages=parts))

    assert got == parts
    assert [(o.assignment.reason, o.is_aborted) for o in outcomes] == [("no_identity", True)]


@pytest.mark.parametrize("mode", MODES)
def test_receive_may_be_called_after_the_answer(mode: str) -> None:
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sends(START, END)(scope, receive, send)
        got.extend([await receive(), await receive()])

    _, outcomes = seen(app, mode)

    assert got == [{"type": "http.disconnect"}] * 2
    assert [o.is_aborted for o in outcomes] == [False] * (mode != "uncovered")


def test_an_app_that_says_nothing_is_counted_as_the_500_that_its_server_makes_of_it() -> None:
    _, outcomes = seen(sends(), "unguarded")

    assert [(o.status, o.error_type) for o in outcomes] == [(500, "500")]


@pytest.mark.parametrize("mode", MODES)
def test_unknown_scopes_pass_to_stable_untouched(mode: str) -> None:
    got: list[Any] = []

    async def first(scope: Any, receive: Any, send: Any) -> None:
        got.append((dict(scope), await receive()))
        await send({"type": "mqtt.ack"})

    scope = {"type": "mqtt", "asgi": {}}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "mqtt.message"}

    async def send(message: Any) -> None:
        sent.append(message)

    with recorded(canary := MODES[mode]()) as outcomes:
        asyncio.run(CanaryMiddleware(apps(first, sends()), canary=canary)(scope, receive, send))

    assert got == [({"type": "mqtt", "asgi": {}}, {"type": "mqtt.message"})]
    assert (sent, outcomes) == ([{"type": "mqtt.ack"}], [])


# -- every order of events ---------------------------------------------------------------------------------------------

STEP = st.sampled_from(
    [
        *[{**START, "status": status} for status in (200, 404, 500, 503)],
        {**START, "trailers": True},
        SSE,
        chunk(b"a"),
        chunk(b""),
        END,
        PATH,
        TRAILERS,
        HINT,
        "receive",
        "raise",
        "swallow",
    ]
)


def scripted(steps: list[Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for step in steps:
            if step == "receive":
                scope["test.log"].append((await receive())["type"])
            elif step == "raise":
                raise Late
            elif step == "swallow":
                try:
                    await send(dict(END))
                except OSError:
                    pass
            else:
                await send(dict(step))

    return app


@given(
    steps=st.lists(STEP, max_size=6),
    mode=st.sampled_from(sorted(MODES)),
    fails_after=st.sampled_from([None, None, 0, 1, 2]),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_in_every_order_of_events_the_exchange_ends_once_and_the_server_sees_the_same(
    steps: list[Any], mode: str, fails_after: int | None, method: str
) -> None:
    # Enough to receive: the scripts never wait for a client.
    options: Any = {"messages": [NO_BODY, *[{"type": "http.disconnect"}] * 6], "fails_after": fails_after}
    app = scripted(steps)
    bare = asyncio.run(asgi_trace(app, scope=http_scope(method), **options))
    canary = MODES[mode]()

    with recorded(canary) as outcomes:
        both = apps(scripted([START, END]), app) if mode == "guarded" else app
        ours = asyncio.run(asgi_trace(CanaryMiddleware(both, canary=canary), scope=http_scope(method), **options))

    assert len(outcomes) == (mode != "uncovered")
    if mode != "guarded" or method == "POST":
        assert (ours.calls, ours.error, ours.log) == (bare.calls, bare.error, bare.log)
    elif outcomes[0].fell_back:
        assert fails_after is not None or [c["type"] for c in ours.calls if c != HINT][-2:] == [
            "http.response.start",
            "http.response.body",
        ]


def rewritten(path: str, raw: bytes | None, **scope: Any) -> tuple[str, bytes]:
    """Path and raw path that the canary sees, whose prefix is /api/v2."""
    found: list[tuple[str, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append((scope["path"], scope["raw_path"]))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    ours = CanaryMiddleware(app, canary=make(), rewrite={"v1": "/api/v1", "v2": "/api/v2"})
    sent = http_scope(path=path, raw_path=raw, **scope)
    asyncio.run(asgi_trace(ours, scope=sent))
    return found[0]


@pytest.mark.parametrize(
    ("path", "raw", "expected"),
    [
        ("/api/v1/a/b", b"/api/v1/a%2Fb", b"/api/v2/a%2Fb"),
        ("/api/v1/a b", b"/%61pi/v1/a%20b", b"/api/v2/a%20b"),
        ("/api/v1", b"/api/v1", b"/api/v2"),
        ("/api/v1/ü", None, b"/api/v2/%C3%BC"),
        ("/api/v1/a b", b"/elsewhere", b"/api/v2/a%20b"),
    ],
    ids=["an escaped slash", "an escaped prefix", "nothing behind it", "no raw path", "another raw path"],
)
def test_behind_a_rewritten_prefix_the_raw_path_stays_as_it_was_sent(
    path: str, raw: bytes | None, expected: bytes
) -> None:
    assert rewritten(path, raw) == (path.replace("v1", "v2"), expected)


def test_a_mount_point_is_kept_before_a_rewritten_prefix_and_only_if_it_is_one() -> None:
    below = rewritten("/shop/api/v1/a", b"/shop/api/v1/a%2F", root_path="/shop")
    beside = rewritten("/api/v1/a", b"/api/v1/a", root_path="/ap")
    alone = rewritten("/api/v1/a", b"/api/v1/a", root_path="/shop")

    assert below == ("/shop/api/v2/a", b"/shop/api/v2/a%2F")
    assert beside == alone == ("/api/v2/a", b"/api/v2/a")
