"""Where an ASGI app, our door and what stands around it meet: endings, contexts, scopes, routes and streams."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from canary_middleware import Canary, by_header, current
from canary_middleware.asgi import CanaryMiddleware, apps
from canary_middleware.testing import recorded
from tests.contract.clients import asgi_request

from .traces import http_scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LANGUAGE: ContextVar[str] = ContextVar("language", default="en")


def everyone(**fields: Any) -> Canary:
    return Canary("api", weight=100, key=[by_header("u")], environ={}, **fields)


async def one(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one " + LANGUAGE.get().encode()})


def ask(app: Any, path: str = "/") -> Any:
    return asgi_request(app, target=path, headers=[("u", "x")])


async def leaks(scope: Any, receive: Any, send: Any) -> None:
    """Awaits what somebody else has cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def leaks_in_a_group(scope: Any, receive: Any, send: Any) -> None:
    raise BaseExceptionGroup("two", [asyncio.CancelledError(), ValueError()])


async def exits(scope: Any, receive: Any, send: Any) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("app", "name"), [(leaks, "CancelledError"), (leaks_in_a_group, "BaseExceptionGroup"), (exits, "SystemExit")]
)
def test_a_cancellation_that_is_nobodys_and_an_exit_are_failures_that_stable_answers(app: Any, name: str) -> None:
    canary = everyone()

    with recorded(canary) as ended:
        answer = ask(CanaryMiddleware(apps(one, app), canary=canary))

    assert (answer.status, answer.text) == (200, "one en")
    assert [(o.error_type, o.fell_back, o.is_aborted) for o in ended] == [(name, True, False)]


def test_a_request_that_is_cancelled_from_outside_is_neither_success_nor_failure() -> None:
    canary = everyone()
    begun: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        begun.append(current().version)
        await asyncio.Event().wait()

    async def cancels() -> None:
        app = CanaryMiddleware(apps(one, waits), canary=canary)
        task = asyncio.ensure_future(app(http_scope(headers=[(b"u", b"x")]), None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with recorded(canary) as ended:
        asyncio.run(cancels())

    assert begun == ["v2"]
    assert [(o.is_aborted, o.fell_back) for o in ended] == [(True, False)]


def test_a_coroutine_thrown_away_starts_no_fallback() -> None:
    canary = everyone()
    served: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        served.append(current().version)
        await asyncio.get_running_loop().create_future()

    async def drives() -> Any:
        running = CanaryMiddleware(apps(waits, waits), canary=canary)(http_scope(headers=[(b"u", b"x")]), None, None)  # type: ignore[arg-type]
        copy_context().run(running.send, None)
        running.close()

    with recorded(canary) as ended:
        asyncio.run(drives())

    assert served == ["v2"]
    assert [o.is_aborted for o in ended] == [True]


def test_stable_runs_in_the_context_as_it_was_and_what_it_sets_is_seen_outside() -> None:
    canary = everyone()
    outside: list[str] = []

    async def two(scope: Any, receive: Any, send: Any) -> None:
        LANGUAGE.set("de")
        await asyncio.sleep(0)
        raise ValueError("after it has changed the language")

    async def stable(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        await one(scope, receive, send)
        LANGUAGE.set("fr")

    inner = CanaryMiddleware(apps(stable, two), canary=canary)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        LANGUAGE.set("es")
        await inner(scope, receive, send)
        outside.append(LANGUAGE.get())

    assert ask(outer).text == "one es"
    assert outside == ["fr"]


@pytest.mark.parametrize("fails", [False, True], ids=["canary answers", "stable answers"])
@pytest.mark.parametrize("rewrite", [None, {"v1": "/v1", "v2": "/v2"}], ids=["apps", "rewrite"])
def test_outside_the_scope_of_the_version_that_answered_is_seen(fails: bool, rewrite: Any) -> None:
    canary = everyone()
    seen: list[tuple[Any, Any, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        version = current().version
        scope["endpoint"] = version
        scope["state"]["who"] = version
        if version == "v2" and fails:
            scope["only"] = "v2"
            raise ValueError
        await one(scope, receive, send)

    middleware = CanaryMiddleware(app if rewrite else apps(app, app), canary=canary, rewrite=rewrite)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def sends(message: Any) -> None:
            seen.append((scope.get("endpoint"), scope.get("state", {}).get("who"), scope.get("only")))
            await send(message)

        await middleware(scope, receive, sends)
        assert scope["path"] == "/v1/a"

    ask(outer, "/v1/a")

    version = "v1" if fails else "v2"
    assert seen == [(version, version, None)] * 2


def test_a_stream_behind_a_503_is_ended_at_once() -> None:
    canary = everyone()
    ended: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"no "
                await asyncio.sleep(0)
        finally:
            ended.append(1)

    async def view(request: Any) -> Any:
        return StreamingResponse(endless(), 503) if current().version == "v2" else PlainTextResponse("one")

    app = CanaryMiddleware(Starlette(routes=[Route("/", view)]), canary=canary)
    with recorded(canary) as outcomes:
        answer = ask(app)

    assert (answer.status, answer.text) == (200, "one")
    assert [(o.error_type, o.fell_back) for o in outcomes] == [("503", True)]
    assert ended == [1]


def test_wrapped_twice_with_one_canary_a_request_is_counted_once() -> None:
    canary = everyone()
    inner = CanaryMiddleware(apps(one, one), canary=canary)

    with recorded(canary) as ended:
        answer = ask(CanaryMiddleware(inner, canary=canary))

    assert len(ended) == 1
    assert answer.header("X-Canary-Version") == "v2"


def test_a_failed_canary_leaves_no_reference_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    # The test's own log capture would keep every traceback.
    monkeypatch.setattr(logging.getLogger("canary_middleware"), "disabled", True)
    canary = everyone()

    class Large:
        alive = 0

        def __init__(self) -> None:
            Large.alive += 1

        def __del__(self) -> None:
            Large.alive -= 1

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        large = Large()
        raise ValueError(large.__class__)

    app = CanaryMiddleware(apps(one, fails), canary=canary)
    ask(app)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            ask(app)
        alive = Large.alive
    finally:
        gc.enable()

    assert alive == 0


def test_a_message_without_headers_goes_on_as_the_object_it_is() -> None:
    canary = Canary("api", weight=0, key=[by_header("u")], environ={}, version_header="", cache_headers=False)
    start = {"type": "http.response.start", "status": 204}
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await send(start)
        await send({"type": "http.response.body"})
        return "said"

    async def check() -> Any:
        async def send(message: Any) -> None:
            sent.append(message)

        return await CanaryMiddleware(app, canary=canary)(http_scope(headers=[(b"u", b"x")]), None, send)  # type: ignore[arg-type]

    assert asyncio.run(check()) == "said"
    assert sent[0] is start


def routed(app: Any, path: str) -> str | None:
    canary = everyone()
    with recorded(canary) as ended:
        ask(CanaryMiddleware(app, canary=canary), path)
    return ended[0].route


def test_routers_that_are_included_keep_their_prefix_in_the_template() -> None:
    app = FastAPI()
    users, orders, inner = APIRouter(), APIRouter(), APIRouter()

    @users.get("/{id}")
    def user(id: int) -> int:  # noqa: A002
        return id

    @orders.get("/{id}")
    def order(id: int) -> int:  # noqa: A002
        return id

    @inner.get("/lines/{line}")
    def line(id: int, line: int) -> int:  # noqa: A002
        return line

    orders.include_router(inner, prefix="/{id}")
    app.include_router(users, prefix="/users")
    app.include_router(orders, prefix="/orders")
    app.include_router(orders, prefix="/purchases")

    assert routed(app, "/users/7") == "/users/{id}"
    assert routed(app, "/orders/7") == "/orders/{id}"
    assert routed(app, "/orders/7/lines/8") == "/orders/{id}/lines/{line}"
    assert routed(app, "/purchases/7/lines/8") == "/purchases/{id}/lines/{line}"


def test_a_value_in_the_path_of_a_mount_is_no_part_of_the_template() -> None:
    inner = FastAPI()

    @inner.get("/users/{uid}")
    def user(uid: int) -> int:
        return uid

    app = Starlette(
        routes=[Mount("/tenants/{tenant}", inner), Mount("/plain", Starlette(routes=[Mount("/in", inner)]))]
    )

    assert routed(app, "/tenants/acme/users/7") == "/tenants/{tenant}/users/{uid}"
    assert routed(app, "/plain/in/users/7") == "/plain/in/users/{uid}"


def test_a_tenant_above_the_middleware_is_no_part_of_the_template() -> None:
    canary = everyone()
    inner = FastAPI(middleware=[Middleware(CanaryMiddleware, canary=canary)])

    @inner.get("/users/{uid}")
    def user(uid: int) -> int:
        return uid

    with recorded(canary) as ended:
        ask(Starlette(routes=[Mount("/tenants/{tenant}", inner)]), "/tenants/acme/users/7")

    assert [o.route for o in ended] == ["/users/{uid}"]


def test_a_version_with_a_lifespans_state_shows_its_route_and_returns_what_it_said() -> None:
    canary = everyone()
    outside: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = 1
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return None
        scope["endpoint"] = (current().version, scope["state"]["pool"])
        await one(scope, receive, send)
        return "said"

    both = apps(app, app)
    middleware = CanaryMiddleware(both, canary=canary)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        outside.append(await middleware(scope, receive, send))
        outside.append(scope.get("endpoint"))

    async def starts() -> None:
        waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            return waiting.pop(0)

        async def send(message: Any) -> None:
            pass

        await both({"type": "lifespan", "asgi": {}, "state": {}}, receive, send)

    asyncio.run(starts())
    ask(outer)

    assert outside == ["said", ("v2", 1)]
