"""Requests through the ASGI front door without a server, for what only telemetry can see."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from canary_middleware import Canary, by_header
from canary_middleware.asgi import CanaryMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers 200, or what the path says: ``/500`` a status, ``/boom`` an exception."""
    name = scope["path"].rpartition("/")[2]
    if name == "boom":
        raise ValueError(name)
    await send(
        {
            "type": "http.response.start",
            "status": int(name) if name.isdecimal() and len(name) == 3 else 200,
            "headers": [],
        }
    )
    await send({"type": "http.response.body", "body": b"ok"})


def canary(weight: int = 50, **fields: Any) -> Canary:
    return Canary(fields.pop("name", "checkout"), weight=weight, key=[by_header("x-user-id")], **fields)


def http_scope(path: str = "/cart", user: str = "u", method: str = "GET", **headers: str) -> dict[str, Any]:
    sent = {"host": "shop.example:8443", "user-agent": "test", "x-user-id": user, **headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "scheme": "https",
        "http_version": "1.1",
        "server": ("127.0.0.1", 8443),
        "client": ("192.0.2.7", 1234),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()],
    }


async def call(app: Any, scope: dict[str, Any]) -> list[dict[str, Any]]:
    """One request; what the app sent. Its exception is what a server would log."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    try:
        await app(scope, receive, send)
    except ValueError as error:
        sent.append({"type": "raised", "error": error})
    return sent


def request(
    app: Any, path: str = "/cart", user: str = "u", method: str = "GET", **headers: str
) -> list[dict[str, Any]]:
    """One request through *app* in a loop of its own."""
    return asyncio.run(call(app, http_scope(path, user, method, **headers)))


def middleware(app: App = plain, **fields: Any) -> CanaryMiddleware:
    return CanaryMiddleware(app, canary=canary(**fields))
