"""Requests as servers hand them over: what uvicorn puts into a scope, and gunicorn into an environ."""

from __future__ import annotations

import asyncio
import atexit
import io
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    # Any: the specifications put anything in a scope, a message or an environ.
    Scope = dict[str, Any]
    Environ = dict[str, Any]
    Prepare = Callable[[int], Callable[[], object]]

USER_HEADER: Final = "x-user-id"

_HEADERS: Final = (
    (b"host", b"api.example.com"),
    (b"connection", b"keep-alive"),
    (b"accept", b"application/json, text/plain, */*"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"accept-language", b"en-GB,en;q=0.9,de;q=0.8"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    (b"x-forwarded-for", b"203.0.113.7"),
    (b"x-forwarded-proto", b"https"),
    (b"x-request-id", b"5f2b1c7e-8a1d-4e55-9c3f-6d2f0a9b7e11"),
)


def scope(user: str, path: str) -> Scope:
    """An HTTP scope with ten headers, the identity last."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("203.0.113.7", 51234),
        "scheme": "http",
        "root_path": "",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"page=2",
        "headers": [*_HEADERS, (b"x-user-id", user.encode())],
        "state": {},
    }


def environ(user: str, path: str) -> Environ:
    """The same request as an environ."""
    found: Environ = {
        "wsgi.errors": io.StringIO(),
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.url_scheme": "http",
        "SERVER_SOFTWARE": "gunicorn/23.0.0",
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "page=2",
        "RAW_URI": path + "?page=2",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "203.0.113.7",
        "REMOTE_PORT": "51234",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
    }
    for name, value in _HEADERS:
        found["HTTP_" + name.decode().upper().replace("-", "_")] = value.decode()
    found["HTTP_X_USER_ID"] = user
    return found


def users(count: int) -> list[str]:
    """Different ones, at most 10,000 in all: as a service's users they come back."""
    return [f"user-{(n * 7919) % 10_000:06d}" for n in range(count)]


def asgi(app: Any, path: str = "/items/42") -> Prepare:
    """Serves requests by an ASGI *app*, one after the other in one event loop."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)

    def prepare(count: int) -> Callable[[], object]:
        scopes = [scope(user, path) for user in users(count)]
        return lambda: loop.run_until_complete(serve_asgi(app, scopes))

    return prepare


async def serve_asgi(app: Any, scopes: list[Scope]) -> None:
    """All *scopes*, to a client that takes everything and says nothing."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    # Gone when answered, as in a server: whatever an app hangs onto its scope must not pile up for the collector.
    while scopes:
        await app(scopes.pop(), receive, send)


def wsgi(app: Any, path: str = "/items/42") -> Prepare:
    """Serves requests by a WSGI *app*, and reads its answers to the end as a server does."""

    def prepare(count: int) -> Callable[[], object]:
        environs = [environ(user, path) for user in users(count)]
        return lambda: serve_wsgi(app, environs)

    return prepare


def serve_wsgi(app: Any, environs: list[Environ]) -> None:
    """All *environs*, to a client that takes everything."""

    def write(data: bytes) -> None: ...

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        return write

    while environs:
        body = app(environs.pop(), start_response)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
