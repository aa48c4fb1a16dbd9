"""The least that an app can be, and the least that a middleware can be."""

from __future__ import annotations

import time
from typing import Any, Final

_BODY: Final = b'{"id": 42, "name": "Anna"}'
_LENGTH: Final = str(len(_BODY))


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", _LENGTH.encode())],
        }
    )
    await send({"type": "http.response.body", "body": _BODY})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    """Answers at once."""
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", _LENGTH)])
    return [_BODY]


class PassThrough:
    """What any ASGI middleware that times requests must do at least: the clock twice, and ``send`` wrapped."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.total_s = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def overheard(message: Any) -> None:
            await send(message)

        started = time.perf_counter()
        await self.app(scope, receive, overheard)
        self.total_s += time.perf_counter() - started
