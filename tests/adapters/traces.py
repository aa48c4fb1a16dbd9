"""
What a server sees of an app: every call and message, so that an app alone and an app behind us can be compared.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from canary_middleware import Canary, by_header

USER = "x-user-id"
OURS = frozenset({"x-canary-version", "x-canary-fallback", "vary"})
"""Names of the headers that we add, in these tests; none of their apps sends one."""


def make(**fields: Any) -> Canary:
    """Everybody on the canary, unless *fields* say otherwise."""
    return Canary("checkout", **{"weight": 100, "key": [by_header(USER)], "environ": {}, **fields})


MODES: Mapping[str, Callable[[], Canary]] = {
    "guarded": make,
    "unguarded": lambda: make(fallback="never"),
    "stable": lambda: make(weight=0),
    "uncovered": lambda: make(endpoints=["GET /elsewhere"]),
}
"""How a request may pass us; only ``guarded`` may hold an answer's start back until its first byte."""


@dataclass
class Trace:
    """
    What a server saw.

    Attributes:
        calls: each call or message of the app's, in order, without our headers.
        wire: what went out to the client: a head once, then data; without our headers.
        ours: names of our headers in the last head.
        log: what the app noted of itself.
        error: what the app raised into the server.
        body: the object that a WSGI app returned.
    """

    calls: list[Any] = field(default_factory=list)
    wire: list[Any] = field(default_factory=list)
    ours: set[str] = field(default_factory=set)
    log: list[Any] = field(default_factory=list)
    error: type[BaseException] | None = None
    body: Any = None

    def without_ours(self, headers: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """*headers* without ours, whose names are noted."""
        kept = []
        self.ours = set()
        for name, value in headers:
            plain = (name.decode() if isinstance(name, bytes) else name).lower()
            if plain in OURS:
                self.ours.add(plain)
            else:
                kept.append((name, value))
        return kept

    @property
    def data(self) -> bytes:
        """The body as sent."""
        return b"".join(item[1] for item in self.wire if item[0] == "data")


def environ_of(method: str = "GET", path: str = "/", body: bytes = b"", **more: Any) -> dict[str, Any]:
    """A WSGI environ as a server makes it."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_X_USER_ID": "user-1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **more,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ


class _WsgiServer:
    """One request's worth of a server that keeps to PEP 3333."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._head: tuple[str, list[Any]] | None = None
        self._is_sent = False

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        plain = self._trace.without_ours(headers)
        self._trace.calls.append(("start", status, plain, exc_info is not None))
        if exc_info is not None and self._is_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._head is not None and exc_info is None:
            raise AssertionError("headers are set already")
        self._head = (status, plain)
        return self._write

    def _write(self, data: bytes) -> None:
        self._trace.calls.append(("write", data))
        self._send(data)

    def _send(self, data: bytes) -> None:
        if data:
            self.send_head()
            self._trace.wire.append(("data", data))
        elif self._head is None:
            raise AssertionError("no start_response before the first chunk")

    def send_head(self) -> None:
        if self._head is None:
            raise AssertionError("no start_response before the first byte")
        if not self._is_sent:
            self._is_sent = True
            self._trace.wire.append(("head", *self._head))

    def take(self, body: Any, read: int | None) -> None:
        """Send *body*, or *read* chunks of it."""
        if read == 0:
            return
        for n, chunk in enumerate(body, 1):
            self._trace.calls.append(("chunk", chunk))
            self._send(chunk)
            if n == read:
                return
        self.send_head()


def wsgi_trace(app: Any, *, read: int | None = None, environ: dict[str, Any] | None = None) -> Trace:
    """
    One request to *app*.

    Args:
        read: chunks to take before the client leaves; None takes all.
    """
    trace = Trace()
    environ = environ_of() if environ is None else environ
    environ["test.log"] = trace.log
    server = _WsgiServer(trace)
    try:
        trace.body = app(environ, server.start_response)
        server.take(trace.body, read)
    except Exception as error:
        trace.error = type(error)
    try:
        getattr(trace.body, "close", int)()
    except Exception as error:
        trace.error = type(error)
    return trace


Message = dict[str, Any]
Step = Message | Callable[[], Awaitable[Message]]


def http_scope(method: str = "GET", path: str = "/", **more: Any) -> dict[str, Any]:
    """An HTTP scope as a server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(USER.encode(), b"user-1")],
        "client": ("203.0.113.9", 40000),
        "server": ("testserver", 80),
        **more,
    }


def websocket_scope(**more: Any) -> dict[str, Any]:
    """A websocket's scope as a server makes it."""
    scope = http_scope(**{"type": "websocket", "scheme": "ws", "subprotocols": [], **more})
    del scope["method"]
    return scope


NO_BODY: Message = {"type": "http.request", "body": b"", "more_body": False}


async def asgi_trace(
    app: Any,
    *,
    scope: dict[str, Any] | None = None,
    messages: Iterable[Message] = (NO_BODY,),
    fails_after: int | None = None,
) -> Trace:
    """
    One request to *app*.

    Args:
        messages: what it receives; then the client is gone once the answer is complete.
        fails_after: messages that the server takes before ``send`` raises, because the client has gone.
    """
    trace = Trace()
    scope = http_scope() if scope is None else scope
    scope["test.log"] = trace.log
    waiting = list(messages)
    is_over = asyncio.Event()

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await is_over.wait()
        return {"type": f"{scope['type']}.disconnect"}

    async def send(message: Message) -> None:
        if fails_after is not None and len(trace.calls) >= fails_after:
            is_over.set()
            raise OSError("the client has gone")
        seen = dict(message)
        if "headers" in seen:
            seen["headers"] = trace.without_ours(seen["headers"])
            if not seen["headers"]:
                del seen["headers"]
        trace.calls.append(seen)
        kind = message["type"]
        if kind == "http.response.body" and message.get("body"):
            trace.wire.append(("data", message["body"]))
        if kind == "http.response.body" and not message.get("more_body", False):
            is_over.set()

    try:
        await app(scope, receive, send)
    except Exception as error:
        trace.error = type(error)
    return trace
