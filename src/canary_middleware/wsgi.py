"""
The front door of bare WSGI apps (PEP 3333), and of every framework that is one.

``CanaryMiddleware`` wraps an app; ``apps`` makes one app of several versions.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, cast

from ._core.exchange import UNAVAILABLE, Exchange, Failure, Uncovered, active
from ._core.headers import GONE_BODY, more_headers
from ._serving.bodies import Recording, Replay, Tape
from ._serving.dispatch import Rewrite, picker
from ._serving.request_text import find_cookie, find_query, is_json, length_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    from ._core.assignment.endpoints import Match
    from ._core.assignment.policy import Door
    from ._core.lifecycle.rollout import Assignment
    from ._core.ports import BodyNotRead, Recorder
    from .admin import Admin, Mount
    from .canary import Canary

    Environ = dict[str, Any]  # Any: PEP 3333 puts anything there
    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
    StartResponse = Callable[..., Callable[[bytes], object]]
    App = Callable[[Environ, StartResponse], Iterable[bytes]]

ASSIGNMENT_KEY = "canary_middleware.assignment"
"""Where in the environ an app finds its Assignment, beside ``current()``."""


def text(value: str) -> str:
    """A WSGI string (bytes in Latin-1 clothes) as text: UTF-8, or Latin-1 where it is not."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


class WsgiHead:
    """A WSGI environ as the decision sees it."""

    # Class attributes as defaults, and no slots: most requests never write them.
    match: Match[Any] | None = None
    new_id: str | None = None
    resume: BodyNotRead | None = None  # our input is read on the spot
    _attributes: Mapping[str, str] | None = None

    def __init__(self, environ: Environ, canary: Canary, owner: object) -> None:
        self.environ = environ
        self.canary = canary
        self.owner = owner

    def exchange(self, assignment: Assignment, door: Door, started: float) -> Exchange:
        exchange = Exchange(self.method)
        exchange.admit(assignment, door, started)
        if self.new_id is not None:
            exchange.new_id = self.new_id
        return exchange

    @property
    def method(self) -> str:
        method: str = self.environ.get("REQUEST_METHOD", "GET")
        return method

    @property
    def path(self) -> str:
        return text(self.environ.get("PATH_INFO", "")) or "/"

    @property
    def scheme(self) -> str:
        scheme: str = self.environ.get("wsgi.url_scheme", "http")
        return scheme

    @property
    def app(self) -> object:
        return self.owner

    @property
    def native(self) -> object:
        return self.environ

    @property
    def peer(self) -> str | None:
        return self.environ.get("REMOTE_ADDR") or None

    def header(self, name: str) -> str | None:
        value = self.environ.get(_environ_key(name))
        return None if value is None else text(value)

    def cookie(self, name: str) -> str | None:
        header = self.environ.get("HTTP_COOKIE")
        return text(found) if header and (found := find_cookie(header, name)) is not None else None

    def query(self, name: str) -> str | None:
        query = self.environ.get("QUERY_STRING")
        return find_query(text(query), name) if query else None

    def path_param(self, name: str) -> str | None:
        return None if self.match is None else self.match.param(name)

    def user(self) -> str | None:
        return self.environ.get("REMOTE_USER") or None

    def session(self, name: str | None) -> str | None:
        return None

    def attribute(self, name: str) -> str | None:
        if self._attributes is None:
            self._attributes = self.canary.attributes_of(self.native)
        value = self._attributes.get(name)
        return self.canary.region if value is None and name == "region" else value

    def body(self, cap: int) -> bytes | None:
        environ = self.environ
        if not is_json(environ.get("CONTENT_TYPE") or ""):
            return None
        source = environ["wsgi.input"]
        announced = environ.get("CONTENT_LENGTH")
        if announced:
            length = length_of(announced)
            if not 0 < length <= cap:
                return None
            data: bytes = source.read(length)
            environ["wsgi.input"] = io.BytesIO(data) if len(data) == length else Replay(io.BytesIO(data), source)
            return data
        if not environ.get("wsgi.input_terminated"):
            return None
        data = source.read(cap + 1)
        environ["wsgi.input"] = Replay(io.BytesIO(data), source)
        return data if len(data) <= cap else None


_KEYS: dict[str, str] = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


def _environ_key(name: str) -> str:
    key = _KEYS.get(name)
    if key is None:
        # Bounded: header names come from plans and from our own code, never from a client.
        key = _KEYS[name] = "HTTP_" + name.upper().replace("-", "_")
    return key


class _Body:
    """An app's body: its code sees its Exchange, and its end is noticed. No generator, so that close() always runs."""

    __slots__ = ("_close", "_iterator", "_next", "exchange", "is_exhausted", "recorder")

    def __init__(self, body: Iterable[bytes], exchange: Exchange | Uncovered, recorder: Recorder | None) -> None:
        self._close = getattr(body, "close", None)
        self._iterator = body
        self._next: Callable[[], bytes] | None = None
        self.exchange = exchange
        # Only where a span of ours must be made current around the app's code.
        self.recorder = recorder if type(exchange) is Exchange and exchange.span is not None else None
        self.is_exhausted = False

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        exchange = self.exchange
        token = active.set(exchange)
        scope = None if self.recorder is None else _attach(self.recorder, exchange)
        try:
            if self._next is None:
                self._next = iter(self._iterator).__next__
            return self._next()
        except StopIteration:
            self.is_exhausted = True
            if type(exchange) is Exchange:
                if exchange.status:
                    exchange.finish()
                else:
                    _unstarted(exchange)
            raise
        except BaseException as error:
            if type(exchange) is Exchange:
                self._failed(exchange, error)
            raise
        finally:
            if scope is not None:
                _detach(self.recorder, exchange, scope)
            active.reset(token)

    def _failed(self, exchange: Exchange, error: BaseException) -> None:
        exchange.raised(error)

    def close(self) -> None:
        """Called by the server when the answer is over, also when the client left."""
        exchange = self.exchange
        token = active.set(exchange)
        scope = _attach(self.recorder, exchange)
        try:
            if self._close is not None:
                self._close()
        finally:
            if type(exchange) is Exchange:
                if self.is_exhausted:
                    exchange.finish()
                elif not exchange.status and self._next is not None:
                    _unstarted(exchange)
                else:
                    exchange.aborted()
            _detach(self.recorder, exchange, scope)
            active.reset(token)


class _SizedBody(_Body):
    """A body that says how many chunks it has: servers make a Content-Length of a single one."""

    __slots__ = ("_size",)

    def __init__(self, body: Iterable[bytes], exchange: Exchange | Uncovered, recorder: Recorder | None) -> None:
        super().__init__(body, exchange, recorder)
        self._size: Callable[[], int] = body.__len__  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self._size()


class _StartedBody(_Body):
    """The rest of a canary's answer whose first byte is out: what fails now, stable cannot mend."""

    __slots__ = ()

    def _failed(self, exchange: Exchange, error: BaseException) -> None:
        if isinstance(error, Exception) and not exchange.has_ended:
            exchange.missed = "started"
        exchange.raised(error)


def _unstarted(exchange: Exchange) -> None:
    """The app never called start_response, for which servers answer 500."""
    exchange.status = 500
    exchange.error_type = _UNSTARTED
    exchange.finish()


_UNSTARTED: Final = "500"  # what servers answer then


def _attach(recorder: Recorder | None, exchange: Exchange | Uncovered) -> object:
    """Make our own span current, where there is one."""
    if recorder is None or type(exchange) is not Exchange or exchange.span is None:
        return None
    return recorder.attach(exchange)


def _detach(recorder: Recorder | None, exchange: Exchange | Uncovered, scope: object) -> None:
    if scope is not None and recorder is not None and type(exchange) is Exchange:
        recorder.detach(exchange, scope)


class CanaryMiddleware:
    """
    Runs every request of *app* under *canary*.

    Args:
        app: the app, or ``apps(v1, v2)``.
        canary: what decides.
        rewrite: version → path prefix, where the versions are prefixes of one app.
        admin: the path of the admin API, as ``"/admin/canary"``, or an ``admin.Admin``; None leaves it off.
    """

    head: type[WsgiHead] = WsgiHead
    """How requests are read; a framework's adapter knows its users and sessions."""

    def __init__(
        self,
        app: App,
        *,
        canary: Canary,
        rewrite: dict[str, str] | None = None,
        owner: object = None,
        admin: str | Admin | None = None,
    ) -> None:
        self.app = app
        self.canary = canary
        self.owner = app if owner is None else owner
        self._rewrite = None if rewrite is None else Rewrite(rewrite, canary.versions())
        self._admin: Mount | None = None
        if admin is not None:
            from .admin import Mount

            self._admin = Mount(admin, canary)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if self._admin is not None:
            answer = self._admin.wsgi(environ, start_response)
            if answer is not None:
                return answer
        canary = self.canary
        exchange = canary.begin(self.head(environ, canary, self.owner))
        if exchange is None:
            return self._uncovered(environ, start_response)
        door = exchange.door
        if exchange.variant.role == "canary":
            if exchange.method in door.fallback_methods:
                return _Guarded(self, environ, start_response, exchange).run()
        elif door.is_gone(exchange.assignment):
            return self._gone(environ, start_response, exchange)
        return self.run(environ, _starter(exchange, start_response), exchange)

    def run(self, environ: Environ, started: StartResponse, exchange: Exchange) -> Iterable[bytes]:
        """The app, with its Exchange visible and its end noticed."""
        recorder = self.canary.recorder
        environ = self.environ_for(environ, exchange)
        token = active.set(exchange)
        scope = None if exchange.span is None else _attach(recorder, exchange)
        try:
            body = self.app(environ, started)
        except BaseException as error:
            exchange.raised(error)
            raise
        finally:
            if scope is not None:
                _detach(recorder, exchange, scope)
            active.reset(token)
        return watched(body, environ, exchange, recorder)

    def environ_for(self, environ: Environ, exchange: Exchange) -> Environ:
        """What the app sees: the environ with its Assignment, at the path of its version."""
        if self._rewrite is not None:
            environ = dict(environ)
            # As text, because a prefix may be any; what is no UTF-8 comes back as it was.
            path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "surrogateescape")
            path = self._rewrite.path(path, exchange.assignment.version)
            environ["PATH_INFO"] = path.encode("utf-8", "surrogateescape").decode("latin-1")
        environ[ASSIGNMENT_KEY] = exchange.assignment
        return environ

    def _uncovered(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange = self.canary.uncovered
        token = active.set(exchange)
        try:
            body = self.app(environ, start_response)
        finally:
            active.reset(token)
        return body if type(body) in _WHOLE or _is_file(body, environ) else _bodied(body, exchange, None)

    def _gone(self, environ: Environ, start_response: StartResponse, exchange: Exchange) -> Iterable[bytes]:
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(GONE_BODY)))]
        headers.extend(exchange.door.gone_headers)
        _starter(exchange, start_response)("410 Gone", headers)
        exchange.finish()
        return [] if exchange.method == "HEAD" else [GONE_BODY]


_WHOLE = frozenset({list, tuple})


def watched(body: Iterable[bytes], environ: Environ, exchange: Exchange, recorder: Recorder | None) -> Iterable[bytes]:
    """*body*, such that the exchange ends with it, and such that the server can still treat it as what it is."""
    if type(body) in _WHOLE:
        # Its last byte is made already. Servers look at its len(), so it must stay what it is.
        if exchange.status:
            exchange.finish()
        else:
            _unstarted(exchange)
        return body
    if _is_file(body, environ):
        return cast("Iterable[bytes]", _watched_file(body, exchange))
    return _bodied(body, exchange, recorder)


def _bodied(body: Iterable[bytes], exchange: Exchange | Uncovered, recorder: Recorder | None) -> _Body:
    return (_SizedBody if _is_sized(body) else _Body)(body, exchange, recorder)


def _is_sized(body: Iterable[bytes]) -> bool:
    """Whether *body* itself knows its number of chunks. The type of an agent's proxy promises more than it can keep."""
    try:
        return hasattr(body, "__len__") and len(body) >= 0  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - whatever a proxy makes of a question that its object cannot answer
        return False


def _is_file(body: Iterable[bytes], environ: Environ) -> bool:
    """Whether the server may send *body* with sendfile(2), which only works on the very object it made."""
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is None:
        return False
    # uWSGI's wrapper is a function that gives the file itself back.
    return isinstance(body, wrapper) if isinstance(wrapper, type) else hasattr(body, "fileno")


def _watched_file(body: Any, exchange: Exchange) -> Any:  # Any: the server's own file wrapper
    close = getattr(body, "close", None)

    def closed() -> None:
        token = active.set(exchange)
        try:
            if close is not None:
                close()
        finally:
            active.reset(token)
            exchange.finish()

    try:
        body.close = closed
    except AttributeError:
        exchange.finish()
    return body


def _starter(exchange: Exchange, start_response: StartResponse) -> StartResponse:
    """A start_response that notes the status and appends our headers; once per call of the app's."""

    def started(status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Any:
        exchange.status = int(status[:3])
        headers = [*headers]  # any iterable, maybe one that can be read only once
        headers += response_headers(exchange, headers)
        if exc_info is None:
            return start_response(status, headers)
        return start_response(status, headers, exc_info)

    return started


def response_headers(exchange: Exchange, headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """What to append to the app's *headers*."""
    found = exchange.door.extras[exchange.assignment[0]]
    if exchange.odd is None and not found.wants_private:
        return found.text
    return more_headers(exchange, [value for name, value in headers if name.lower() == "cache-control"])


def has_body(environ: Environ) -> bool:
    """Whether the request carries a body: a length above 0, or chunks."""
    length = environ.get("CONTENT_LENGTH") or "0"
    return length != "0" or bool(environ.get("HTTP_TRANSFER_ENCODING"))


class _Guarded:
    """
    One request that stable takes over if the canary raises, or answers 500, 502, 503 or 504, before its first byte.

    Until then nothing reaches the server: the canary's start_response is held.
    """

    __slots__ = (
        "_environ",
        "_fresh",
        "_is_committed",
        "_middleware",
        "_server_start",
        "_server_write",
        "_start",
        "_tape",
        "_written",
        "exchange",
    )

    def __init__(
        self, middleware: CanaryMiddleware, environ: Environ, start_response: StartResponse, exchange: Exchange
    ) -> None:
        self._middleware = middleware
        self._server_start = start_response
        self.exchange = exchange
        self._fresh = environ
        self._environ = dict(environ)
        self._tape: Tape | None = None
        if has_body(environ):
            self._tape = Tape(exchange.door.router.plan.body_cap)
            exchange.release = self._tape.drop
            self._environ["wsgi.input"] = Recording(environ["wsgi.input"], self._tape)
        # The held call of start_response: its arguments, until it is passed on or dropped.
        self._start: tuple[Any, ...] | None = None
        self._written: list[bytes] = []
        self._is_committed = False

    def run(self) -> Iterable[bytes]:
        """The canary's answer, or stable's."""
        exchange = self.exchange
        middleware = self._middleware
        recorder = middleware.canary.recorder
        environ = middleware.environ_for(self._environ, exchange)
        token = active.set(exchange)
        scope = _attach(recorder, exchange)
        try:
            body = middleware.app(environ, self._held)
        except Exception as error:
            if not self._may_fall_back():
                self._commit()
                exchange.raised(error)
                raise
            return self._by_stable(Failure(500, type(error).__qualname__, error))
        except BaseException as error:
            exchange.raised(error)
            raise
        finally:
            _detach(recorder, exchange, scope)
            active.reset(token)
        if self._is_failing() and self._may_fall_back():
            _close(body)
            return self._by_stable(Failure(exchange.status, exchange.error_type or str(exchange.status)))
        if self._start is not None and (type(body) in _WHOLE or _is_file(body, environ)):
            self._commit()
            return watched(body, environ, exchange, recorder)
        if self._is_committed:
            return _StartedBody(body, exchange, recorder)
        return _GuardedBody(self, body, recorder)

    def _held(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Any:
        """The canary's start_response: noted, passed on with its first byte."""
        if self._is_committed:
            return _starter(self.exchange, self._server_start)(status, headers, exc_info)
        if self._start is not None and exc_info is None:
            raise AssertionError("start_response called a second time without exc_info")
        self.exchange.status = int(status[:3])
        # A copy: the app may use its list again before we pass it on.
        self._start = (status, [*headers])
        return self._write

    def _write(self, data: bytes) -> object:
        """The write() callable: a first byte, unless the answer is about to be dropped."""
        if self._is_failing() and self._may_fall_back():
            # Kept, for the case that the app goes on to read a body that is too long to be replayed.
            self._written.append(data)
            return None
        return self._commit()(data)  # type: ignore[misc]

    def _is_failing(self) -> bool:
        return not self._is_committed and self._start is not None and self.exchange.status in UNAVAILABLE

    def _may_fall_back(self) -> bool:
        tape = self._tape
        is_over = tape is not None and tape.is_over
        return self.exchange.may_fall_back(has_started=self._is_committed, is_body_over=is_over)

    def _commit(self) -> Callable[[bytes], object] | None:
        """Pass the held start_response on: from here on the canary's answer is the answer."""
        if self._start is None:
            return None
        if not self._is_committed:
            self._is_committed = True
            self._server_write = _starter(self.exchange, self._server_start)(*self._start)
            for data in self._written:
                self._server_write(data)
        return self._server_write

    def _by_stable(self, failure: Failure) -> Iterable[bytes]:
        exchange = self.exchange
        self._middleware.canary.fell_back(exchange, failure)
        self._start = None
        environ = self._fresh
        if self._tape is not None:
            environ["wsgi.input"] = Replay(self._tape.rewound(), environ["wsgi.input"])
        return self._middleware.run(environ, _starter(exchange, self._server_start), exchange)

    def first(self, body: _GuardedBody) -> bytes | None:
        """The canary's first chunk with content; None where its body ended without one, or stable answers instead."""
        exchange = self.exchange
        try:
            chunk = body.pull()
            while not chunk and not self._is_committed and not self._is_event_stream():
                chunk = body.pull()
        except StopIteration:
            chunk = None
        except Exception as error:
            if not self._may_fall_back():
                self._commit()
                raise
            body.serve(self._by_stable, Failure(500, type(error).__qualname__, error))
            return None
        if self._start is None and self._may_fall_back():
            body.serve(self._by_stable, Failure(500, _UNSTARTED))
            return None
        if self._is_failing() and self._may_fall_back():
            failure = Failure(exchange.status, exchange.error_type or str(exchange.status))
            body.serve(self._by_stable, failure)
            return None
        self._commit()
        return chunk

    def _is_event_stream(self) -> bool:
        """Whether an empty chunk is meant to send the headers: an event stream's client waits for them."""
        return self._start is not None and any(
            name.lower() == "content-type" and value.lower().startswith("text/event-stream")
            for name, value in self._start[1]
        )


class _GuardedBody(_StartedBody):
    """A canary's body that may turn out to be stable's: decided when the server asks for the first chunk."""

    __slots__ = ("_guard", "_stable")

    def __init__(self, guard: _Guarded, body: Iterable[bytes], recorder: Recorder | None) -> None:
        super().__init__(body, guard.exchange, recorder)
        self._guard: _Guarded | None = guard
        self._stable: Iterator[bytes] | None = None

    def __next__(self) -> bytes:
        if self._stable is not None:
            return next(self._stable)
        guard, self._guard = self._guard, None
        if guard is None:
            return super().__next__()
        return self._first(guard)

    def pull(self) -> bytes:
        """The canary's next chunk."""
        if self._next is None:
            self._next = iter(self._iterator).__next__
        return self._next()

    def serve(self, by_stable: Callable[[Failure], Iterable[bytes]], failure: Failure) -> None:
        """Drop the canary's answer, and be what *by_stable* answers."""
        dropped, self._close = self._iterator, None
        _close(dropped)
        stable = by_stable(failure)
        self._close = getattr(stable, "close", None)
        self._stable = iter(stable)

    def _first(self, guard: _Guarded) -> bytes:
        exchange = guard.exchange
        token = active.set(exchange)
        scope = _attach(self.recorder, exchange)
        try:
            chunk = guard.first(self)
        except BaseException as error:
            exchange.raised(error)
            raise
        finally:
            _detach(self.recorder, exchange, scope)
            active.reset(token)
        if self._stable is not None:
            return next(self._stable)
        if chunk is None:
            self.is_exhausted = True
            exchange.finish()
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Closes whichever body was served, once."""
        if self._stable is not None:
            if self._close is not None:
                self._close()
            self.exchange.finish()  # type: ignore[union-attr]
        else:
            super().close()


def _close(body: Iterable[bytes]) -> None:
    """Tell an app that its answer is dropped; what it raises then is its own affair."""
    close = getattr(body, "close", None)
    if close is not None:
        try:
            close()
        except Exception:  # noqa: BLE001, S110 - the answer that counts is stable's
            pass


def apps(stable: App, canary: App | None = None, /, **versions: App) -> App:
    """One WSGI app of several: each request goes to that of its version. Arguments as for ``handlers``."""
    pick = picker(stable, canary, versions)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        chosen: App = pick()
        return chosen(environ, start_response)

    return app
