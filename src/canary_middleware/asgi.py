"""
The front door of bare ASGI apps, and of Starlette and FastAPI, which are such.

``CanaryMiddleware`` wraps an app; ``apps`` makes one app of several versions and runs all their lifespans.
"""

from __future__ import annotations

import io
import sys
from contextvars import Context, ContextVar, copy_context
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

from ._core.endings import ending_of
from ._core.exchange import UNAVAILABLE, Exchange, Failure, Rare, active
from ._core.headers import GONE_BODY, encoded, more_headers
from ._core.ports import BodyNotRead
from ._serving.bodies import Tape
from ._serving.dispatch import Rewrite, picker
from ._serving.request_text import find_cookie, find_query, is_json, length_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
    from contextvars import Token

    from ._core.assignment.endpoints import Match
    from ._core.assignment.policy import Door
    from ._core.exchange import Uncovered
    from ._core.lifecycle.rollout import Assignment
    from ._core.ports import Message, Receive, Scope, Send
    from .admin import Admin, Mount
    from .canary import Canary

    App = Callable[[Scope, Receive, Send], Awaitable[Any]]

_UNREAD: Final = object()
_CHUNK_BYTES: Final = 64 * 1024


def text(value: bytes) -> str:
    """Header bytes as text: UTF-8, or Latin-1 where they are not."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def asgi_cookie(headers: Iterable[tuple[bytes, bytes]], name: str) -> str | None:
    """The first cookie called *name*. HTTP/2 may split cookies over several headers (RFC 9113 §8.2.3)."""
    for key, value in headers:
        if key == b"cookie" and (found := find_cookie(value.decode("latin-1"), name)) is not None:
            return text(found.encode("latin-1"))
    return None


def asgi_query(scope: Scope, name: str) -> str | None:
    """The first query parameter called *name*."""
    query: bytes = scope.get("query_string", b"")
    return find_query(text(query), name) if query else None


# Header names as servers give them. Bounded: they come from plans and from our own code, never from a client.
_RAW: dict[str, bytes] = {}


class _Request(Exchange):
    """
    An ASGI scope as the decision sees it, and the exchange that comes of it.

    One object and not three, because it is made for every request.
    """

    __slots__ = ("_attributes", "_owner", "_receive", "_send", "match", "outer", "received", "resume", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send, owner: CanaryMiddleware) -> None:
        # Exchange.__init__, without the call.
        self.method = scope.get("method", "WEBSOCKET")
        self.status = 0
        self.route = None
        self.span = None
        self.has_ended = False
        self.odd = None
        self.scope = scope
        self.outer: Scope | None = None
        self._receive = receive
        self._send = send
        self._owner = owner
        self.match: Match[Any] | None = None
        self.received: object = _UNREAD
        self.resume: BodyNotRead | None = None
        self._attributes: Mapping[str, str] | None = None

    def exchange(self, assignment: Assignment, door: Door, started: float) -> Exchange:
        # Exchange.admit, without the call.
        self.assignment = assignment
        self.variant = assignment[0]
        self.door = door
        self.started = started
        return self

    @property
    def path(self) -> str:
        scope = self.scope
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        # Since ASGI 3 revision 2.1 the path holds the mount point; WSGI's PATH_INFO never does.
        if root and _is_below(path, root):
            path = path[len(root) :]
        return path or "/"

    @property
    def scheme(self) -> str:
        scheme: str = self.scope.get("scheme", "http")
        return scheme

    @property
    def app(self) -> object:
        return self.scope.get("app", self._owner.app)

    @property
    def native(self) -> object:
        return self.scope

    @property
    def peer(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    def header(self, name: str) -> str | None:
        try:
            wanted = _RAW[name]
        except KeyError:
            wanted = _RAW[name] = name.encode("latin-1")
        found = None
        for key, value in self.scope["headers"]:
            if key == wanted:
                if found is not None:
                    # Joined, as WSGI servers do (RFC 9110 §5.3): a forged X-Forwarded-For may stand before the proxy's.
                    return text(b",".join([value for key, value in self.scope["headers"] if key == wanted]))
                found = value
        if found is None:
            return None
        try:
            return found.decode()  # type: ignore[no-any-return]
        except UnicodeDecodeError:
            return found.decode("latin-1")  # type: ignore[no-any-return]

    def cookie(self, name: str) -> str | None:
        return asgi_cookie(self.scope["headers"], name)

    def query(self, name: str) -> str | None:
        return asgi_query(self.scope, name)

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
            self._attributes = self._owner.canary.attributes_of(self.native)
        value = self._attributes.get(name)
        return self._owner.canary.region if value is None and name == "region" else value

    def body(self, cap: int) -> bytes | None:
        if self.received is not _UNREAD:
            return self.received  # type: ignore[return-value]
        if self.scope["type"] != "http" or not is_json(self.header("content-type") or ""):
            return None
        length = self.header("content-length")
        if length and not 0 < length_of(length) <= cap:
            return None
        raise BodyNotRead(cap)


class CanaryMiddleware:
    """
    Runs every request and websocket of *app* under *canary*.

    Args:
        app: the app, or ``apps(v1, v2)``.
        canary: what decides.
        rewrite: version → path prefix, where the versions are prefixes of one app.
        admin: the path of the admin API, as ``"/admin/canary"``, or an ``admin.Admin``; None leaves it off.
    """

    def __init__(
        self,
        app: App,
        *,
        canary: Canary,
        rewrite: dict[str, str] | None = None,
        admin: str | Admin | None = None,
    ) -> None:
        self.app = app
        self.canary = canary
        self._rewrite = None if rewrite is None else Rewrite(rewrite, canary.versions())
        self._admin: Mount | None = None
        if admin is not None:
            from .admin import Mount

            self._admin = Mount(admin, canary)

    @property
    def rewrites(self) -> bool:
        """Whether versions are path prefixes of one app."""
        return self._rewrite is not None

    async def __call__(  # noqa: C901 - flat, because it is the path of every request
        self, scope: Scope, receive: Receive, send: Send
    ) -> Any:
        kind = scope["type"]
        if kind == "http":
            if self._admin is not None and await self._admin.asgi(scope, receive, send):
                return None
            if self._is_inside(scope):
                return await self.app(scope, receive, send)
            talk = _Http(scope, receive, send, self)
            try:
                exchange = self.canary.begin(talk)  # pyright: ignore[reportArgumentType]
            except BodyNotRead as wanted:
                exchange = await _with_body(self.canary, talk, wanted)
            if exchange is None:
                return await self._uncovered(scope, talk.receive_again(), send)
            door = talk.door
            if talk.variant.role == "canary":
                if talk.method in door.fallback_methods:
                    return await self._guarded(talk)
            elif door.is_retired and door.is_gone(talk.assignment):
                return await _gone(talk)
            if talk.span is not None or self._rewrite is not None:
                return await self.run(talk)
            # What run() does, without a coroutine of its own: this is the path of nearly every request.
            state = scope.get("state")
            if state is None:
                scope["state"] = {"canary": talk.assignment}
            else:
                state["canary"] = talk.assignment
            token = active.set(talk)
            try:
                said = await self.app(scope, talk.receive, talk.send)
            except BaseException as error:
                talk.failed(error)
                raise
            finally:
                _reset(token)
            if not talk.has_ended:
                talk.returned()
            return said
        if kind == "websocket":
            if self._is_inside(scope):
                return await self.app(scope, receive, send)
            return await self._websocket(scope, receive, send)
        if kind == "lifespan":
            from ._serving.lifespan import with_farewell

            return await with_farewell(self.app, scope, receive, send, self.canary.close)
        return await self._uncovered(scope, receive, send)

    def _is_inside(self, scope: Scope) -> bool:
        """Whether this very request was decided by the same Canary further out: wrapped twice, or a mounted child."""
        state = scope.get("state")
        if state is None or "canary" not in state:
            return False
        outer = active.get()
        if outer is None or outer.assignment is not state["canary"]:
            return False
        return not isinstance(outer, Exchange) or outer.door.router.variants is self.canary.variants

    async def run(self, talk: _Http | _Websocket) -> Any:
        """The app, with its Exchange visible, our span current and its end noticed."""
        try:
            said = await self._inside(talk, talk.receive, talk.send)
        except BaseException as error:
            talk.failed(error)
            raise
        if not talk.has_ended:
            talk.returned()
        return said

    async def _inside(self, talk: _Http | _Websocket, receive: Receive, send: Send) -> Any:
        """The app at its version's path, where ``current()`` answers and our span is current."""
        recorder = self.canary.recorder if talk.span is not None else None
        outer = talk.scope
        scope = talk.scope = self._scope_for(outer, talk.assignment)
        if scope is not outer and talk.outer is None:
            talk.outer = outer
        token = active.set(talk)
        span_token = None if recorder is None else recorder.attach(talk)
        try:
            return await self.app(scope, receive, send)
        finally:
            if recorder is not None:
                recorder.detach(talk, span_token)
            _reset(token)
            if talk.outer is not None:
                talk.publish()

    def _scope_for(self, scope: Scope, assignment: Assignment) -> Scope:
        """What the app sees: the scope with its Assignment in ``state``, at the path of its version."""
        if self._rewrite is not None:
            path = scope["path"]
            root = scope.get("root_path", "")
            if not _is_below(path, root):
                root = ""
            prefix, target = self._rewrite.prefixes(path[len(root) :], assignment.version)
            if prefix != target:
                scope = {
                    **scope,
                    "path": root + target + path[len(root) + len(prefix) :],
                    "raw_path": _raw_path(scope, root + prefix, root + target),
                }
        state = scope.get("state")
        if state is None:
            scope["state"] = {"canary": assignment}
        else:
            state["canary"] = assignment
        return scope

    async def _uncovered(self, scope: Scope, receive: Receive, send: Send) -> Any:
        token = active.set(self.canary.uncovered)
        try:
            return await self.app(scope, receive, send)
        finally:
            _reset(token)

    async def _guarded(self, talk: _Http) -> Any:
        """A canary that stable takes over from if it fails before its first byte."""
        fresh = talk.scope
        # The canary gets a copy, so that stable finds the scope as the server made it.
        talk.scope = dict(fresh)
        if "state" in fresh:
            talk.scope["state"] = dict(fresh["state"])
        session = self._kept_session(fresh["session"]) if "session" in fresh else None
        before = copy_context()
        guard = _Guard(talk, fresh)
        said = None
        try:
            said = await self._inside(talk, guard.receive, guard.send)
        except BaseException as error:
            if not await guard.takes(error):
                raise
        if guard.failure is None and not await guard.is_silent():
            return said
        if talk.has_left:
            talk.aborted()
            return said
        self.canary.fell_back(talk, guard.failure or Failure(500, "500"))
        if session is not None:
            session.restore()
        talk.outer = None
        talk.rewind(fresh, guard.tape.replay)
        # What the canary left in context variables (a language, a time zone, a logger's fields) is not stable's.
        return await _Within(before, self.run(talk))

    def _kept_session(self, session: object) -> _KeptSession | None:
        try:
            return _KeptSession(session)
        except Exception as error:  # noqa: BLE001 - a session of anybody's making, whose values may not be copied
            self.canary.troubles.report("fallback", error, "stable finds what a failed canary wrote there")
            return None

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> Any:
        talk = _Websocket(scope, receive, send, self)
        if self.canary.begin(talk) is None:  # pyright: ignore[reportArgumentType]
            return await self._uncovered(scope, receive, send)
        if talk.door.is_gone(talk.assignment):
            await receive()
            talk.status = 410
            await send({"type": "websocket.close", "code": 1000})
            talk.finish()
            return None
        return await self.run(talk)


def _reset(token: Token[Exchange | Uncovered | None]) -> None:
    """Undo ``active.set``; a coroutine that is thrown away with its loop ends in a context of nobody's, and may."""
    try:  # on the path of every request: contextlib.suppress costs as much as the rest of it
        active.reset(token)
    except ValueError:
        pass


def _is_cancelled() -> bool:
    """Whether the running task is being cancelled; under another event loop than asyncio's its own word is taken."""
    asyncio = sys.modules.get("asyncio")
    try:
        task = None if asyncio is None else asyncio.current_task()
    except RuntimeError:
        return True
    return task is None or task.cancelling() > 0


class _Within:
    """
    Awaits a coroutine in *context*, in the same task, and leaves behind what it has set there.

    A task of its own would be cancelled, timed and named as another.
    """

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._context = context
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        run, coroutine = self._context.run, self._coroutine
        try:
            waiting = run(coroutine.send, None)
            while True:
                try:
                    value = yield waiting
                except GeneratorExit:
                    run(coroutine.close)
                    raise
                except BaseException as error:  # noqa: BLE001 - what was thrown at us is thrown at it
                    waiting = run(coroutine.throw, error)
                else:
                    waiting = run(coroutine.send, value)
        except StopIteration as done:
            return done.value
        finally:
            for variable in self._context:
                _copy(variable, self._context)


def _copy(variable: ContextVar[Any], context: Context) -> None:
    value = context[variable]
    if variable is not active and variable.get(None) is not value:
        variable.set(value)


async def _with_body(canary: Canary, talk: _Http, wanted: BodyNotRead) -> Exchange | None:
    """Read the body up to the wanted cap, decide, and let the app's ``receive`` start from the beginning."""
    started = canary.clock()
    cap = wanted.cap
    receive = talk.receive_again()
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
    talk.received = b"".join(chunks) if not more and size <= cap else None
    pending = iter(messages)

    async def replay() -> Message:
        for message in pending:
            return message
        return await receive()

    talk.rewind(talk.scope, replay)
    talk.resume = wanted
    return canary.begin(talk, started)  # pyright: ignore[reportArgumentType]


def _is_below(path: str, root: str) -> bool:
    """Whether *path* is *root* or stands below it."""
    return path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/")


def _raw_path(scope: Scope, prefix: str, target: str) -> bytes:
    """The path as it was sent, with *target* for the *prefix* of the decoded one; what follows keeps its escapes."""
    raw: bytes | None = scope.get("raw_path")
    tail = None if raw is None else _raw_tail(raw, prefix.encode())
    if tail is None:  # the server says nothing of it, or something else
        tail = _quoted(scope["path"][len(prefix) :])
    return _quoted(target) + tail


def _raw_tail(raw: bytes, prefix: bytes) -> bytes | None:
    """What stands in *raw* behind the bytes that decode to *prefix*; None where it begins otherwise."""
    from urllib.parse import unquote_to_bytes

    end = 0
    for _ in prefix:
        end += 3 if raw[end : end + 1] == b"%" else 1
    return raw[end:] if unquote_to_bytes(raw[:end]) == prefix else None


def _quoted(path: str) -> bytes:
    from urllib.parse import quote

    return quote(path, safe="/:@!$&'()*+,;=~").encode()


class _Http(_Request):
    """What one request's app and its server say to each other, overheard."""

    __slots__ = ()

    has_left: Rare[bool] = Rare(False)
    wants_trailers: Rare[bool] = Rare(False)

    def receive_again(self) -> Receive:
        """The ``receive`` as it stands, for an app that is not overheard."""
        return self._receive

    def rewind(self, scope: Scope, receive: Receive) -> None:
        """Begin again, with *scope* and from the body's first byte."""
        self.scope = scope
        self._receive = receive

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.has_ended:
            self.has_left = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            message = self.begun(message)
        try:
            await self._send(message)
        except OSError:  # the server's way to say that the client has gone (ASGI 2.4)
            self.has_left = True
            raise
        if kind == "http.response.body":
            if not message.get("more_body"):
                if self.odd is None:
                    # Exchange.finish, without the call.
                    if not self.has_ended:
                        self.has_ended = True
                        self.door.end(self)
                elif not self.wants_trailers:
                    self.end()
        elif (kind == "http.response.trailers" and not message.get("more_trailers", False)) or (
            kind in ("http.response.pathsend", "http.response.zerocopysend")
            and not message.get("more_body")
            and not self.wants_trailers
        ):
            self.end()

    def begun(self, message: Message) -> Message:
        """The start of the answer, with our headers behind the app's; the app's message and list stay as they are."""
        status = message.get("status")
        self.status = status if isinstance(status, int) else 500  # the server will refuse it
        if "route" in self.scope:
            self.note_route()
        if self.outer is not None:
            self.publish()
        if message.get("trailers"):
            self.wants_trailers = True
        extra = self.door.extras[self.assignment[0]]
        if self.odd is None and not extra.wants_private:
            return {**message, "headers": [*message.get("headers", ()), *extra.raw]} if extra.raw else message
        headers = [*message.get("headers", ())]  # any iterable, maybe one that can be read only once
        cache_control = [value.decode("latin-1") for name, value in headers if name.lower() == b"cache-control"]
        return {**message, "headers": [*headers, *encoded(more_headers(self, cache_control))]}

    def note_route(self) -> None:
        """The route template, once the router below has found one."""
        found = template(self.scope, self._owner.app)
        if found is not None:
            self.route = found

    def publish(self) -> None:
        """Let those outside see what the version that answers wrote into its own scope, as they would without us."""
        outer = self.outer
        assert outer is not None
        state, path, raw_path = outer.get("state"), outer["path"], outer.get("raw_path")
        outer.update(self.scope)
        if self._owner.rewrites:  # the version's own path is ours, and nobody's outside
            outer["path"] = path
            if raw_path is None:
                outer.pop("raw_path", None)
            else:
                outer["raw_path"] = raw_path
        if state is not None:
            # The very object that those outside hold.
            state.update(outer["state"])
            outer["state"] = state

    def end(self) -> None:
        """The last byte is out."""
        if self.has_left:
            self.aborted()
        else:
            self.finish()

    def failed(self, error: BaseException) -> None:
        """The app raised *error*, or its task was cancelled because the client left."""
        if self.has_left or ending_of(error, is_cancelled=_is_cancelled()) == "left":
            self.aborted()
        else:
            if not self.status:
                self.note_route()
            self.raised(error)

    def returned(self) -> None:
        """The app is done, and its answer is not: there was none, or the client left."""
        if not self.has_left and not self.status:
            self.status = 500  # what servers answer for an app that says nothing
        self.end()


class _KeptSession:
    """
    A session as it was before the canary: what a failed canary has written is not for stable to keep.

    Restored in place, because the session's own middleware holds the object.
    """

    __slots__ = ("_attributes", "_session", "_values")

    def __init__(self, session: object) -> None:
        # Plain dict methods: Starlette's own would note that somebody has looked, or changed something.
        self._session = session if isinstance(session, dict) else None
        self._values: dict[Any, Any] = deepcopy(dict(session)) if isinstance(session, dict) else {}
        self._attributes = dict(getattr(session, "__dict__", {}))

    def restore(self) -> None:
        if self._session is None:
            return
        dict.clear(self._session)
        dict.update(self._session, self._values)
        if hasattr(self._session, "__dict__"):
            self._session.__dict__.clear()
            self._session.__dict__.update(self._attributes)


class _Guard:
    """Stands between a canary and its server, which hears nothing until the first byte is sure to be the canary's."""

    def __init__(self, talk: _Http, outer: Scope) -> None:
        self._talk = talk
        self._outer = outer
        self.tape = _Taped(talk.receive_again(), talk.door.router.plan.body_cap)
        talk.rewind(talk.scope, self.tape.receive)
        self.failure: Failure | None = None
        self._is_committed = False
        self._held: Message | None = None
        talk.release = self.tape.drop

    def _may_fall_back(self) -> bool:
        return self._talk.may_fall_back(has_started=self._is_committed, is_body_over=self.tape.is_over)

    async def receive(self) -> Message:
        if self.failure is not None:
            # Nobody will get its answer any more, and the rest of the body is stable's to read.
            return {"type": "http.disconnect"}
        return await self._talk.receive()

    async def send(self, message: Message) -> None:
        if self.failure is not None:
            if message.get("more_body"):
                # The rest of a stream that nobody will get: told as a server tells that the client has gone (ASGI 2.4).
                raise _Dropped
            return
        if self._is_committed:
            await self._talk.send(message)
        elif message["type"] == "http.response.start":
            status = message["status"]
            if status in UNAVAILABLE and self._may_fall_back():
                self._talk.note_route()
                self.failure = Failure(status, str(status))
                return
            # A copy: the app may use its message again before we pass it on.
            self._held = {**message, "headers": [*message["headers"]]} if "headers" in message else dict(message)
            if _is_event_stream(self._held):
                await self._commit()  # its client waits for the headers, maybe for minutes before the first event
        else:
            await self._commit()
            await self._talk.send(message)

    async def _commit(self) -> None:
        """Pass on the start that was held back, if there is one."""
        if not self._is_committed:
            self._talk.outer = self._outer
            if self._held is not None:
                self._is_committed = True
                await self._talk.send(self._held)

    async def takes(self, error: BaseException) -> bool:
        """Whether stable answers for a canary that raised *error*."""
        if isinstance(error, _Dropped):
            return True
        ending = ending_of(error, is_cancelled=_is_cancelled())
        if ending != "failed" or self._talk.has_left or not self._may_fall_back():
            if ending == "failed":
                await self._commit()
            self._talk.failed(error)
            return False
        if self.failure is not None and _is_dropped(error):
            return True
        # Starlette sends its 500 and raises on: the exception says more than the status.
        self.failure = Failure(self.failure.status if self.failure else 500, type(error).__qualname__, error)
        return True

    async def is_silent(self) -> bool:
        """Whether a canary that returned has said nothing, which its server would make a 500."""
        talk = self._talk
        if self._held is None and not talk.has_left and self._may_fall_back():
            return True
        await self._commit()
        if not talk.has_ended:
            talk.returned()
        return False


class _Dropped(OSError):
    """A canary's answer is not wanted any more: stable is about to answer."""


def _is_dropped(error: BaseException | None) -> bool:
    """Whether *error* is what a framework made of our word that the answer is not wanted any more."""
    while error is not None:
        if isinstance(error, _Dropped):
            return True
        error = error.__cause__ or error.__context__
    return False


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
        is_last = self._is_complete and (self._tape is None or self._file.tell() >= self._tape.size)
        if chunk or is_last:
            self._is_complete = self._is_complete and not is_last
            return {"type": "http.request", "body": chunk, "more_body": not is_last}
        return await self._receive()


class _Websocket(_Http):
    """A websocket. Its duration is that of the handshake; its outcome is known when it closes."""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._left()
        return message

    def _handshake_headers(self) -> Iterable[tuple[bytes, bytes]]:
        if self.odd is None:
            return self.door.extras[self.assignment[0]].raw
        return encoded(more_headers(self, ("no-store",)))  # no cache keeps a handshake

    def _left(self) -> None:
        """The client has gone: how most websockets end, and before the handshake is answered no outcome at all."""
        if self.status:
            self.finish()
        else:
            self.aborted()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        status = self.status
        if kind == "websocket.accept":
            self.answered_at = self._owner.canary.clock()
            self.status = 101
            self.note_route()
            message = {**message, "headers": [*message.get("headers", ()), *self._handshake_headers()]}
        elif kind == "websocket.http.response.start":
            message = self.begun(message)
        elif kind == "websocket.close":
            if not self.status:
                self.status = 403  # what servers answer when the handshake is refused
                self.note_route()
            elif message.get("code") == 1011:
                self.error_type = "1011"  # RFC 6455 §7.4.1: an unexpected condition in the server
        try:
            await self._send(message)
        except OSError:  # the client has gone (ASGI 2.4)
            self.status = status
            self._left()
            raise
        if kind == "websocket.close" or (
            kind == "websocket.http.response.body" and not message.get("more_body", False)
        ):
            self.finish()


def template(scope: Scope, app: object) -> str | None:
    """
    The route template that answers *scope*, such as ``/tenants/{tenant}/users/{uid}``; None before routing.

    No value is ever part of it: where parameters stand in the path of a mount, the mount's own template is looked up.
    """
    route = scope.get("route")
    if route is None:
        return None
    included = scope.get("fastapi")  # since 0.142 FastAPI keeps included routers, and the route is only its last part
    effective = included.get("effective_route_context") if isinstance(included, dict) else None
    if effective is not None and getattr(effective, "original_route", route) is route:
        route = effective
    path: str | None = getattr(route, "path_format", None) or getattr(route, "path", None)
    if path is None:
        return None
    root: str = scope.get("root_path", "")
    mounted = root.removeprefix(scope.get("app_root_path", root))
    return _mounts(mounted, app) + path if mounted else path


def _mounts(path: str, app: object) -> str:
    """The templates of the mounts that *path* went through; what no mount of *app* accounts for is left out."""
    found = ""
    while path:
        while app is not None and not hasattr(app, "routes"):
            app = getattr(app, "app", None)
        for mount in getattr(app, "routes", None) or ():
            match = (
                mount.path_regex.match(path + "/") if hasattr(mount, "app") and hasattr(mount, "path_regex") else None
            )
            if match is not None:
                found += mount.path
                rest = "/" + match.groupdict().get("path", "")
                path, app = rest.rstrip("/") if rest != "/" else "", mount.app
                break
        else:
            return found
    return found


async def _gone(talk: _Http) -> None:
    """Answer for a version that is out of service."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(GONE_BODY)).encode()),
        *encoded(talk.door.gone_headers),
    ]
    await talk.send({"type": "http.response.start", "status": 410, "headers": headers})
    body = b"" if talk.method == "HEAD" else GONE_BODY
    await talk.send({"type": "http.response.body", "body": body})


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        if scope["type"] == "lifespan":
            from ._serving.lifespan import together

            return await together(self._apps, self._states, scope, receive, send)
        app: App = self._pick()
        state = self._states.get(self._names[id(app)])
        if state:
            # In the scope itself, as a server gives a lifespan its state: what the version writes into it
            # (its route, its user) is seen outside.
            scope["state"] = {**scope.get("state", {}), **state}
        return await app(scope, receive, send)


def apps(stable: App, canary: App | None = None, /, **versions: App) -> App:
    """
    One ASGI app of several: each request goes to that of its version, and all lifespans run.

    Arguments as for ``handlers``. An app that fails to start is reported to the server by its version.
    """
    return _Apps(stable, canary, versions)
