"""Two plain apps without any canary, for the tests of the harness itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers its process id and echoes the path."""
    size = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(size) if size else environ["PATH_INFO"].encode()
    headers = [("content-length", str(len(body))), ("x-pid", str(os.getpid())), ("x-a", "1"), ("x-a", "2")]
    start_response("200 OK", headers)
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The same for ASGI, in two chunks."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    headers = [(b"x-pid", str(os.getpid()).encode()), (b"x-a", b"1"), (b"x-a", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": scope["path"].encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"\n"})
