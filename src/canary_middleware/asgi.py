"""
The front door of bare ASGI apps, and of Starlette and FastAPI, which are such.

``CanaryMiddleware`` wraps an app; ``apps`` makes one app of several versions and runs all their lifespans.
"""

from __future__ import annotations

import io
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Final

from .bodies import Tape
from .core.exchange import UNAVAILABLE, Exchange, Failure, active
from .core.headers import GONE_BODY, encoded, more_headers
from .core.ports import BodyNotRead
from .dispatch import Rewrite, picker
from .requests import find_cookie, find_query, is_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from .canary import Canary
    from .core.endpoints import Match
    from .core.ports import Message, Receive, Scope, Send

    App = Callable[[Scope, Receive, Send], Awaitable[None]]

_UNREAD: Final = object()
_CHUNK_BYTES: Final = 64 * 1024


def text(value: bytes) -> str:
    """Header bytes as text: UTF-8, or Latin-1 where they are not."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class AsgiHead:
    """An ASGI scope as the decision sees it."""

    __slots__ = ("_attributes", "canary", "match", "owner", "received", "scope")

    def __init__(self, scope: Scope, canary: Canary, owner: object) -> None:
        self.scope = scope
        self.canary = canary
        self.owner = owner
        self.match: Match[Any] | None = None
        self.received: object = _UNREAD
        self._attributes: Mapping[str, str] | None = None

    @property
    def method(self) -> str:
        method: str = self.scope.get("method", "WEBSOCKET")
        return method

    @property
    def path(self) -> str:
        scope = self.scope
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        # Since ASGI 3 revision 2.1 the path holds the mount point; WSGI's PATH_INFO never does.
        if root and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/"):
            path = path[len(root) :]
        return path or "/"

    @property
    def scheme(self) -> str:
        scheme: str = self.scope.get("scheme", "http")
        return scheme

    @property
    def app(self) -> object:
        return self.scope.get("app", self.owner)

    @property
    def native(self) -> object:
        return self.scope

    @property
    def peer(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    def header(self, name: str) -> str | None:
        wanted = name.encode("latin-1")
        for key, value in self.scope["headers"]:
            if key == wanted:
                return text(value)
        return None

    def cookie(self, name: str) -> str | None:
        # HTTP/2 may split cookies over several headers (RFC 9113 §8.2.3).
        for key, value in self.scope["headers"]:
            if key == b"cookie" and (found := find_cookie(value.decode("latin-1"), name)) is not None:
                return text(found.encode("latin-1"))
        return None

    def query(self, name: str) -> str | None:
        query: bytes = self.scope.get("query_string", b"")
        return find_query(text(query), name) if query else None

    def path_param(self, name: str) -> str | None:
        return None if self.match is None else self.match.param(name)

    def user(self) -> str | None:
        user = self.scope.get("user")
        if user is None or not getattr(user, "is_authenticated", False):
            return None
        for name in ("pk", "id", "identity", "username", "display_name"):
            try:
                value = getattr(user, name, None)
            except NotImplementedError:  # Starlette's BaseUser declares identity and leaves it out
                continue
            if value is not None and value != "":
                return str(value)
        return None

    def session(self, name: str | None) -> str | None:
        session = self.scope.get("session")
        if session is None:
            return None
        if name is None:
            key = getattr(session, "session_key", None) or session.get("session_id") or session.get("id")
            return None if key is None else str(key)
        value = session.get(name)
        return None if value is None else str(value)

    def attribute(self, name: str) -> str | None:
        if self._attributes is None:
            self._attributes = self.canary.attributes_of(self.native)
        value = self._attributes.get(name)
        return self.canary.region if value is None and name == "region" else value

    def body(self, cap: int) -> bytes | None:
        if self.received is not _UNREAD:
            return self.received  # type: ignore[return-value]
        if self.scope["type"] != "http" or not is_json(self.header("content-type") or ""):
            return None
        length = self.header("content-length") or ""
        if length and (not (length.isascii() and length.isdecimal()) or int(length) > cap or int(length) == 0):
            return None
        raise BodyNotRead(cap)


class CanaryMiddleware:
    """
    Runs every request and websocket of *app* under *canary*.

    Args:
        app: the app, or ``apps(v1, v2)``.
        canary: what decides.
        rewrite: version → path prefix, where the versions are prefixes of one app.
    """

    def __init__(self, app: App, *, canary: Canary, rewrite: dict[str, str] | None = None) -> None:
        self.app = app
        self.canary = canary
        self._rewrite = None if rewrite is None else Rewrite(rewrite, canary.versions())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            canary = self.canary
            head = AsgiHead(scope, canary, self.app)
            try:
                exchange = canary.begin(head)
            except BodyNotRead as wanted:
                exchange, receive = await _with_body(canary, head, receive, wanted.cap)
            if exchange is None:
                await self._uncovered(scope, receive, send)
            elif exchange.variant.role == "canary" and exchange.method in exchange.door.fallback_methods:
                await self._guarded(scope, receive, send, exchange)
            elif exchange.door.is_gone(exchange.assignment):
                await _gone(_Conversation(scope, receive, send, exchange))
            else:
                await self._run(_Conversation(scope, receive, send, exchange))
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            from .lifespan import with_farewell

            await with_farewell(self.app, scope, receive, send, self.canary.close)
        else:
            await self.app(scope, receive, send)

    async def _run(self, talk: _Conversation) -> None:
        """The app, with its Exchange visible and its end noticed."""
        exchange = talk.exchange
        recorder = self.canary.recorder if exchange.span is not None else None
        scope = talk.scope = self._scope_for(talk.scope, exchange)
        token = active.set(exchange)
        span_token = None if recorder is None else recorder.attach(exchange)
        try:
            await self.app(scope, talk.receive, talk.send)
        except CancelledError:
            exchange.aborted()
            raise
        except BaseException as error:
            talk.failed(error)
            raise
        finally:
            if recorder is not None:
                recorder.detach(exchange, span_token)
            active.reset(token)
        if not exchange.has_ended:
            talk.returned()

    def _scope_for(self, scope: Scope, exchange: Exchange) -> Scope:
        """What the app sees: the scope with its Assignment in ``state``, at the path of its version."""
        assignment = exchange.assignment
        if self._rewrite is not None:
            path = scope["path"]
            root = scope.get("root_path", "")
            below = path[len(root) :] if root and path.startswith(root) else path
            target = self._rewrite.path(below, assignment.version)
            if target != below:
                raw = (path[: len(path) - len(below)] + target).encode()
                scope = {**scope, "path": raw.decode(), "raw_path": _quoted(raw)}
        state = scope.get("state")
        if state is None:
            scope["state"] = {"canary": assignment}
        else:
            state["canary"] = assignment
        return scope

    async def _uncovered(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = active.set(self.canary.uncovered)
        try:
            await self.app(scope, receive, send)
        finally:
            active.reset(token)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        """A canary that stable takes over from if it fails before its first byte."""
        tape = _Taped(receive, exchange.door.router.plan.body_cap)
        # The canary gets a copy, so that stable finds the scope as the server made it.
        fresh = scope
        scope = dict(scope)
        if "state" in fresh:
            scope["state"] = dict(fresh["state"])
        exchange.release = tape.drop
        talk = _Guarded(scope, tape.receive, send, exchange, tape)
        recorder = self.canary.recorder if exchange.span is not None else None
        talk.scope = self._scope_for(scope, exchange)
        token = active.set(exchange)
        span_token = None if recorder is None else recorder.attach(exchange)
        try:
            await self.app(talk.scope, talk.receive, talk.send)
        except CancelledError:
            exchange.aborted()
            raise
        except Exception as error:
            if talk.has_left or not talk.may_fall_back():
                await talk.commit()
                talk.failed(error)
                raise
            talk.failure = talk.failure or Failure(500, type(error).__qualname__, error)
        except BaseException as error:
            talk.failed(error)
            raise
        finally:
            if recorder is not None:
                recorder.detach(exchange, span_token)
            active.reset(token)
        if talk.failure is None:
            if talk.has_answered or talk.has_left or not talk.may_fall_back():
                await talk.commit()
                if not exchange.has_ended:
                    talk.returned()
                return
            talk.failure = Failure(500, "500")  # it returned without an answer; the server would make it a 500
        if talk.has_left:
            exchange.aborted()
            return
        self.canary.fell_back(exchange, talk.failure)
        await self._run(_Conversation(fresh, tape.replay, send, exchange))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self.canary.begin(AsgiHead(scope, self.canary, self.app))
        if exchange is None:
            await self._uncovered(scope, receive, send)
        elif exchange.door.is_gone(exchange.assignment):
            await receive()
            exchange.status = 410
            await send({"type": "websocket.close", "code": 1000})
            exchange.finish()
        else:
            talk = _Websocket(scope, receive, send, exchange)
            talk.clock = self.canary.clock
            await self._run(talk)


async def _with_body(
    canary: Canary, head: AsgiHead, receive: Receive, cap: int
) -> tuple[Exchange | None, Receive]:
    """Read the body up to *cap* bytes, decide, and give the app a ``receive`` that starts from the beginning."""
    started = canary.clock()
    messages: list[Message] = []
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= cap:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            break
        chunk = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        more = message.get("more_body", False)
    head.received = b"".join(chunks) if not more and size <= cap else None
    pending = iter(messages)

    async def replay() -> Message:
        for message in pending:
            return message
        return await receive()

    return canary.begin(head, started), replay


def _quoted(path: bytes) -> bytes:
    from urllib.parse import quote

    return quote(path, safe="/:@!$&'()*+,;=~").encode()


class _Conversation:
    """What one request's app and its server say to each other, overheard."""

    __slots__ = ("_receive", "_send", "exchange", "has_left", "scope", "wants_trailers")

    def __init__(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.exchange = exchange
        self.has_left = False
        self.wants_trailers = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.exchange.has_ended:
            self.has_left = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            message = self.started(message)
        try:
            await self._send(message)
        except OSError:  # the server's way to say that the client has gone (ASGI 2.4)
            self.has_left = True
            raise
        if kind == "http.response.body":
            if not message.get("more_body", False) and not self.wants_trailers:
                self.end()
        elif (kind == "http.response.trailers" and not message.get("more_trailers", False)) or (
            kind == "http.response.pathsend" and not self.wants_trailers
        ):
            self.end()

    def started(self, message: Message) -> Message:
        """The start of the answer, with our headers behind the app's; the app's message and list stay as they are."""
        exchange = self.exchange
        exchange.status = message["status"]
        self.note_route()
        if message.get("trailers", False):
            self.wants_trailers = True
        headers = message.get("headers", ())
        return {**message, "headers": [*headers, *response_headers(exchange, headers)]}

    def note_route(self) -> None:
        """The route template, once the router below has found one."""
        route = self.scope.get("route")
        if route is not None:
            path = getattr(route, "path_format", None) or getattr(route, "path", None)
            if path is not None:
                self.exchange.route = self.scope.get("root_path", "") + path

    def end(self) -> None:
        """The last byte is out."""
        if self.has_left:
            self.exchange.aborted()
        else:
            self.exchange.finish()

    def failed(self, error: BaseException) -> None:
        """The app raised *error*."""
        if self.has_left:
            self.exchange.aborted()
        else:
            if not self.exchange.status:
                self.note_route()
            self.exchange.raised(error)

    def returned(self) -> None:
        """The app is done, and its answer is not: there was none, or the client left."""
        if not self.has_left and not self.exchange.status:
            self.exchange.status = 500  # what servers answer for an app that says nothing
        self.end()


class _Guarded(_Conversation):
    """A canary's conversation, of which the server hears nothing until the first byte is sure to be the canary's."""

    __slots__ = ("_held", "failure", "is_committed", "tape")

    def __init__(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange, tape: _Taped) -> None:
        super().__init__(scope, receive, send, exchange)
        self.tape = tape
        self.failure: Failure | None = None
        self.is_committed = False
        self._held: Message | None = None

    @property
    def has_answered(self) -> bool:
        """Whether the canary began an answer that counts."""
        return self.is_committed or self._held is not None

    def may_fall_back(self) -> bool:
        """Whether stable can still take over; where not, the exchange says why."""
        if self.is_committed:
            self.exchange.missed = "started"
        elif self.tape.is_over:
            self.exchange.missed = "body"
        else:
            return True
        return False

    async def send(self, message: Message) -> None:
        if self.failure is not None:
            return
        if self.is_committed:
            await super().send(message)
        elif message["type"] == "http.response.start":
            status = message["status"]
            if status in UNAVAILABLE and self.may_fall_back():
                self.note_route()
                self.failure = Failure(status, str(status))
                return
            self._held = message
            if _is_event_stream(message):
                await self.commit()  # its client waits for the headers, which may be minutes before the first event
        else:
            await self.commit()
            await super().send(message)

    async def commit(self) -> None:
        """Pass on the start that was held back, if there is one."""
        if not self.is_committed and self._held is not None:
            self.is_committed = True
            await super().send(self._held)


def _is_event_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
        for name, value in message.get("headers", ())
    )


class _Taped:
    """A request's body, recorded as the canary reads it and played again for stable."""

    __slots__ = ("_cap", "_file", "_is_complete", "_receive", "_tape")

    def __init__(self, receive: Receive, cap: int) -> None:
        self._receive = receive
        self._cap = cap
        self._tape: Tape | None = None
        self._file: Any = None
        self._is_complete = False

    @property
    def is_over(self) -> bool:
        """Whether the body was too long to keep."""
        return self._tape is not None and self._tape.is_over

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            body = message.get("body", b"")
            if body:
                if self._tape is None:
                    self._tape = Tape(self._cap)
                self._tape.record(body)
            self._is_complete = not message.get("more_body", False)
        return message

    def drop(self) -> None:
        """The request is over."""
        if self._tape is not None:
            self._tape.drop()

    async def replay(self) -> Message:
        """What the canary has read, in chunks, then what the server still has."""
        if self.is_over:
            return await self._receive()
        if self._file is None:
            self._file = io.BytesIO() if self._tape is None else self._tape.rewound()
        chunk = self._file.read(_CHUNK_BYTES)
        if chunk:
            left = self._tape is not None and self._file.tell() < self._tape.size
            if self._is_complete and not left:
                self._is_complete = False
                return {"type": "http.request", "body": chunk, "more_body": False}
            return {"type": "http.request", "body": chunk, "more_body": True}
        if self._is_complete:
            self._is_complete = False
            return {"type": "http.request", "body": b"", "more_body": False}
        return await self._receive()


class _Websocket(_Conversation):
    """
    A websocket. Its duration is that of the handshake; its outcome is known when it closes.
    """

    __slots__ = ("clock",)
    clock: Callable[[], float]

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.exchange.finish()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        exchange = self.exchange
        if kind == "websocket.accept":
            exchange.answered_at = self.clock()
            exchange.status = 101
            self.note_route()
            headers = message.get("headers", ())
            message = {**message, "headers": [*headers, *exchange.door.extra(exchange.assignment.version).raw]}
        elif kind == "websocket.http.response.start":
            message = self.started(message)
        elif kind == "websocket.close":
            if not exchange.status:
                exchange.status = 403  # what servers answer when the handshake is refused
                self.note_route()
            elif message.get("code") == 1011:
                exchange.error_type = "1011"  # RFC 6455 §7.4.1: an unexpected condition in the server
        await self._send(message)
        if kind == "websocket.close" or (
            kind == "websocket.http.response.body" and not message.get("more_body", False)
        ):
            exchange.finish()


async def _gone(talk: _Conversation) -> None:
    """Answer for a version that is out of service."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(GONE_BODY)).encode()),
        *encoded(talk.exchange.door.gone_headers),
    ]
    await talk.send({"type": "http.response.start", "status": 410, "headers": headers})
    body = b"" if talk.exchange.method == "HEAD" else GONE_BODY
    await talk.send({"type": "http.response.body", "body": body})


def response_headers(
    exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]
) -> Iterable[tuple[bytes, bytes]]:
    """What to append to the app's *headers*."""
    found = exchange.door.extra(exchange.assignment.version)
    if exchange.new_id is None and exchange.failure is None and not found.wants_private:
        return found.raw
    return encoded(
        more_headers(
            exchange, [value.decode("latin-1") for name, value in headers if name.lower() == b"cache-control"]
        )
    )


class _Apps:
    """Several ASGI apps as one."""

    def __init__(self, stable: App, canary: App | None, versions: Mapping[str, App]) -> None:
        self._pick = picker(stable, canary, versions)
        self._apps: dict[str, App] = {
            "stable": stable,
            **(versions if canary is None else {"canary": canary}),
        }
        self._names = {id(app): name for name, app in self._apps.items()}
        self._states: dict[str, dict[str, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            from .lifespan import together

            await together(self._apps, self._states, scope, receive, send)
            return
        app: App = self._pick()
        state = self._states.get(self._names[id(app)])
        if state:
            scope = {**scope, "state": {**scope.get("state", {}), **state}}
        await app(scope, receive, send)


def apps(stable: App, canary: App | None = None, /, **versions: App) -> App:
    """
    One ASGI app of several: each request goes to that of its version, and all lifespans run.

    Arguments as for ``handlers``. An app that fails to start is reported to the server by its version.
    """
    return _Apps(stable, canary, versions)
