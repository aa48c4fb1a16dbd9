"""Two whole ASGI apps as one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from canary_middleware import asgi

from .shop import CHUNK, DOWNLOAD_CHUNKS, Broken, canary, counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Send = Any
Receive = Any


async def start(send: Send, kind: bytes = b"text/plain", size: int | None = None) -> None:
    headers = [(b"content-type", kind)]
    if size is not None:
        headers.append((b"content-length", str(size).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def put(send: Send, data: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def say(name: bytes, receive: Receive, send: Send) -> None:
    await start(send, size=len(name))
    await put(send, name)


async def download(name: bytes, receive: Receive, send: Send) -> None:
    await start(send, size=len(CHUNK) * DOWNLOAD_CHUNKS)
    for n in range(DOWNLOAD_CHUNKS):
        await put(send, CHUNK, more=n < DOWNLOAD_CHUNKS - 1)


async def endless(name: bytes, receive: Receive, send: Send) -> None:
    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await start(send)
    # As Starlette does: uvicorn's send does not say that the client has gone.
    leaving = asyncio.ensure_future(left())
    while not leaving.done():
        await put(send, CHUNK, more=True)
        await asyncio.sleep(0)


async def upload(name: bytes, receive: Receive, send: Send) -> None:
    size = 0
    async for part in parts(receive):
        size += len(part)
    await say(str(size).encode(), receive, send)


async def upload_fail(name: bytes, receive: Receive, send: Send) -> None:
    size = 0
    async for part in parts(receive):
        size += len(part)
    if name == b"v2":
        raise Broken
    await say(name + b" " + str(size).encode(), receive, send)


async def echo_parts(name: bytes, receive: Receive, send: Send) -> None:
    """Answers each part of the upload while the next is not sent yet."""
    await start(send)
    async for part in parts(receive):
        if part:
            await put(send, part + b"\n", more=True)
    await put(send, b"")


async def fail(name: bytes, receive: Receive, send: Send) -> None:
    if name == b"v2":
        raise Broken
    await say(name, receive, send)


async def events(name: bytes, receive: Receive, send: Send) -> None:
    """Server-sent events, the first only once the client has ended its body."""
    await start(send, b"text/event-stream")
    async for _ in parts(receive):
        pass
    for n in range(3):
        await put(send, b"data: %s %d\n\n" % (name, n), more=True)
    await put(send, b"")


async def tell_counts(name: bytes, receive: Receive, send: Send) -> None:
    await say(counts(), receive, send)


ROUTES: dict[str, Callable[[bytes, Receive, Send], Awaitable[None]]] = {
    "/download": download,
    "/endless": endless,
    "/upload": upload,
    "/upload-fail": upload_fail,
    "/echo": echo_parts,
    "/fail": fail,
    "/events": events,
    "/counts": tell_counts,
}


async def websocket(name: str, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{name} {message['text']}"})


def version(name: str) -> Callable[[Any, Receive, Send], Awaitable[None]]:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await ROUTES.get(scope["path"], say)(name.encode(), receive, send)
        elif scope["type"] == "websocket":
            await websocket(name, receive, send)
        else:
            raise ValueError(scope["type"])

    return app


app = asgi.CanaryMiddleware(asgi.apps(version("v1"), version("v2")), canary=canary)
