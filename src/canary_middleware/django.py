"""
Django: one middleware for both colours, a URLconf per version, and system checks.

``MIDDLEWARE += ["canary_middleware.django.CanaryMiddleware"]`` behind the session and authentication middlewares, and
``CANARY = "shop.canary.checkout"`` (a dotted path, or the Canary itself).
"""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import wraps
from os import SEEK_END
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpResponse, UnreadablePostError
from django.urls import get_resolver, set_urlconf
from django.utils.module_loading import import_string

from ._core.assignment.identity import Session, User
from ._core.exchange import UNAVAILABLE, Exchange, Failure, Uncovered, active
from ._core.headers import GONE_BODY, more_headers
from ._serving.dispatch import Rewrite
from ._serving.request_text import is_json, length_of
from .asgi import asgi_cookie, asgi_query
from .canary import Canary
from .errors import ConfigError
from .wsgi import WsgiHead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from .admin import AdminAPI, Mount, Principal
    from .admin.exchange import Problem


class DjangoHead(WsgiHead):
    """A Django request as the decision sees it; ``request.META`` is a WSGI environ in both colours."""

    def __init__(self, request: HttpRequest, canary: Canary) -> None:
        super().__init__(request.META, canary, settings)
        self.request = request

    @property
    def method(self) -> str:
        return self.request.method or "GET"

    @property
    def path(self) -> str:
        return self.request.path_info

    @property
    def scheme(self) -> str:
        return self.request.scheme or "http"

    @property
    def native(self) -> object:
        return self.request

    def user(self) -> str | None:
        user = getattr(self.request, "user", None)
        return str(user.pk) if user is not None and user.is_authenticated else None

    def session(self, name: str | None) -> str | None:
        session = getattr(self.request, "session", None)
        if session is None:
            return None
        value = session.session_key if name is None else session.get(name)
        return None if value is None else str(value)

    def cookie(self, name: str) -> str | None:
        scope = getattr(self.request, "scope", None)
        return super().cookie(name) if scope is None else asgi_cookie(scope["headers"], name)

    def query(self, name: str) -> str | None:
        # In META it is text already under ASGI, and WSGI's bytes in Latin-1 clothes else.
        scope = getattr(self.request, "scope", None)
        return super().query(name) if scope is None else asgi_query(scope, name)

    def body(self, cap: int) -> bytes | None:
        request = self.request
        if not is_json(request.META.get("CONTENT_TYPE") or "") or not 0 < body_size(request) <= cap:
            return None
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        if limit is not None and body_size(request) > limit:
            return None  # request.body would raise, and leave it to the view to do better
        return request.body


def body_size(request: HttpRequest) -> int:
    """Bytes of the body that a view may read: as announced, or what Django has received under ASGI; -1 if unknown."""
    announced = request.META.get("CONTENT_LENGTH") or ""
    if announced and length_of(announced) < 0:
        return -1  # request.body would raise, and leaves that to the view
    stream = getattr(request, "_stream", None) if hasattr(request, "scope") else None
    if stream is not None and stream.seekable():
        here = stream.tell()
        size: int = stream.seek(0, SEEK_END)
        stream.seek(here)
        return size
    return length_of(announced)


def get_canary() -> Canary:
    """The Canary that ``settings.CANARY`` names. Raises ImproperlyConfigured with what to write there."""
    wanted = getattr(settings, "CANARY", None)
    if isinstance(wanted, str):
        try:
            wanted = import_string(wanted)
        except ImportError as error:
            raise ImproperlyConfigured(f"CANARY = {settings.CANARY!r} cannot be imported: {error}") from error
    if isinstance(wanted, dict):
        wanted = Canary.load(wanted)
        settings.CANARY = wanted  # one Canary for all that ask
    if not isinstance(wanted, Canary):
        raise ImproperlyConfigured(
            f"CANARY is {wanted!r}: must be a Canary, the dotted path of one, or a plan as a dict"
        )
    return wanted


class CanaryMiddleware:
    """Runs every request under ``settings.CANARY``; ``request.canary`` is its Assignment."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.canary = get_canary()
        for complaint in _fleeting_keys(self.canary):
            raise ConfigError(complaint)
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        rewrite = getattr(settings, "CANARY_REWRITE", None)
        self._rewrite = None if rewrite is None else Rewrite(rewrite, self.canary.versions())
        self._urlconfs: dict[str, Any] = dict(getattr(settings, "CANARY_URLCONF", None) or {})
        self._rolls_back = any(options.get("ATOMIC_REQUESTS") for options in connections.settings.values())
        self._guarded: dict[Any, Any] = {}
        self._admin = _admin(self.canary)
        sources = [source for plan in self.canary.plan.rollouts for source in plan.key]
        if getattr(settings, "CANARY_DATABASE", True):
            _time_queries(self.canary)
        # Sessions and users may be read from the database, which an event loop must not wait for.
        self._may_block = any(isinstance(source, (Session, User)) for source in sources)

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self._call_async(request)
        if self._admin is not None:
            path = self._admin.below(request.path_info)
            if path is not None:
                return _administered(self._admin.api, request, path)
        exchange = self.canary.begin(DjangoHead(request, self.canary))
        if exchange is None:
            return self._uncovered(request)
        if exchange.door.is_gone(exchange.assignment):
            return self._answered(_gone(exchange), exchange)
        fresh = self._copy_for_stable(request, exchange)
        response = self._serve(request, exchange, guarded=fresh is not None)
        if fresh is not None and response.status_code in UNAVAILABLE:
            self._fell_back(response, exchange)
            _hand_over(fresh, request)
            response = self._serve(fresh, exchange)
        return self._answered(response, exchange)

    async def _call_async(self, request: HttpRequest) -> Any:
        if self._admin is not None:
            path = self._admin.below(request.path_info)
            if path is not None:
                return await sync_to_async(_administered_aside, thread_sensitive=False)(self._admin.api, request, path)
        begin = self.canary.begin
        head = DjangoHead(request, self.canary)
        exchange = await sync_to_async(begin)(head) if self._may_block else begin(head)
        if exchange is None:
            return await self._uncovered_async(request)
        if exchange.door.is_gone(exchange.assignment):
            return self._answered(_gone(exchange), exchange)
        fresh = self._copy_for_stable(request, exchange)
        response = await self._serve_async(request, exchange, guarded=fresh is not None)
        if fresh is not None and response.status_code in UNAVAILABLE:
            self._fell_back(response, exchange)
            _hand_over(fresh, request)
            response = await self._serve_async(fresh, exchange)
        return self._answered(response, exchange)

    # -- one run of the inner chain, in both colours ---------------------------------------------------------------

    def _serve(self, request: HttpRequest, exchange: Exchange, *, guarded: bool = False) -> HttpResponseBase:
        self._prepare(request, exchange, guarded=guarded)
        with _Scope(self.canary, exchange):
            return cast("HttpResponseBase", self.get_response(request))

    async def _serve_async(
        self, request: HttpRequest, exchange: Exchange, *, guarded: bool = False
    ) -> HttpResponseBase:
        self._prepare(request, exchange, guarded=guarded)
        with _Scope(self.canary, exchange):
            return await cast("Awaitable[HttpResponseBase]", self.get_response(request))

    def _prepare(self, request: HttpRequest, exchange: Exchange, *, guarded: bool) -> None:
        """What the views see: ``request.canary``, and the path or URLconf of the version."""
        assignment = exchange.assignment
        request.canary = assignment  # type: ignore[attr-defined]
        if self._rewrite is not None:
            path = self._rewrite.path(request.path_info, assignment.version)
            if path != request.path_info:
                request.path = request.path[: len(request.path) - len(request.path_info)] + path
                request.path_info = path
        urlconf = self._urlconfs.get(assignment.version)
        if guarded and self._rolls_back:
            request.urlconf = self._guarded_urlconf(urlconf or getattr(request, "urlconf", None))
        elif urlconf is not None:
            request.urlconf = urlconf

    def _guarded_urlconf(self, urlconf: Any) -> Any:  # Any: a dotted path, module or list of patterns
        urlconf = urlconf or settings.ROOT_URLCONF
        key = urlconf if isinstance(urlconf, (str, ModuleType)) else id(urlconf)
        if key not in self._guarded:
            self._guarded[key] = _RollingBack(urlconf)
        return self._guarded[key]

    def _copy_for_stable(self, request: HttpRequest, exchange: Exchange) -> HttpRequest | None:
        """A second request for stable to serve if the canary fails, or None where it may not or cannot be replayed."""
        if exchange.variant.role != "canary" or request.method not in exchange.door.fallback_methods:
            return None
        try:
            is_kept = body_size(request) <= exchange.door.router.plan.body_cap
            if is_kept:
                request.body  # noqa: B018 - read before the copy is made: Django closes the stream behind it
        except Exception:  # noqa: BLE001 - too long for Django, or the client left: the view will see it
            is_kept = False
        # Streams begin behind the middlewares: whatever fails here has sent nothing.
        if not exchange.may_fall_back(has_started=False, is_body_over=not is_kept):
            return None
        fresh = copy.copy(request)
        try:
            _separate(fresh, request)
        except Exception as error:  # noqa: BLE001 - sessions and messages of anybody's making
            self.canary.troubles.report("fallback", error, "stable finds what a failed canary wrote there")
        return fresh

    def _fell_back(self, response: HttpResponseBase, exchange: Exchange) -> None:
        status = response.status_code
        _drop(response)
        set_urlconf(None)  # reverse() in stable's view would find the canary's URLs
        self.canary.fell_back(exchange, Failure(status, exchange.error_type or str(status)))

    def _uncovered(self, request: HttpRequest) -> Any:
        request.canary = self.canary.uncovered.assignment  # type: ignore[attr-defined]
        with _Scope(self.canary, self.canary.uncovered):
            return self.get_response(request)

    async def _uncovered_async(self, request: HttpRequest) -> Any:
        request.canary = self.canary.uncovered.assignment  # type: ignore[attr-defined]
        with _Scope(self.canary, self.canary.uncovered):
            return await self.get_response(request)

    # -- hooks that Django calls -----------------------------------------------------------------------------------

    def process_view(self, request: HttpRequest, _view: object, _args: object, _kwargs: object) -> None:
        """Note the route template; Django has just resolved it."""
        exchange = active.get()
        match = request.resolver_match
        if isinstance(exchange, Exchange) and match is not None and match.route is not None:
            exchange.route = "/" + match.route.lstrip("^").removesuffix("$").lstrip("/")

    def process_exception(self, _request: HttpRequest, exception: Exception) -> None:
        """Note what the 500 that Django is about to make was made of."""
        exchange = active.get()
        if isinstance(exchange, Exchange) and not exchange.has_ended:
            exchange.error_type = type(exception).__qualname__

    # -- the answer ------------------------------------------------------------------------------------------------

    def _answered(self, response: HttpResponseBase, exchange: Exchange) -> HttpResponseBase:
        exchange.status = response.status_code
        if exchange.odd is not None:
            _forget(exchange)
        for name, value in _headers(response, exchange):
            _append(response, name, value)
        if response.streaming:
            _watch(response, exchange, self.canary)
        else:
            exchange.finish()
        return response


def _drop(response: HttpResponseBase) -> None:
    """Close what a dropped answer holds. Not by its close(): that says that the request is finished."""
    closers = response._resource_closers  # type: ignore[attr-defined]  # noqa: SLF001 - the list close() works through
    for close in closers:
        with suppress(Exception):  # as Django itself does
            close()
    closers.clear()


class _Scope:
    """The stretch of the app's code in which ``current()`` answers, and our span is current."""

    __slots__ = ("_canary", "_exchange", "_span", "_token")

    def __init__(self, canary: Canary, exchange: Exchange | Uncovered) -> None:
        self._canary = canary
        self._exchange = exchange

    def __enter__(self) -> None:
        exchange = self._exchange
        self._token = active.set(exchange)
        recorder = self._canary.recorder
        self._span = (
            recorder.attach(exchange)
            if recorder is not None and isinstance(exchange, Exchange) and exchange.span is not None
            else None
        )

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        exchange = self._exchange
        recorder = self._canary.recorder
        if self._span is not None and recorder is not None and isinstance(exchange, Exchange):
            recorder.detach(exchange, self._span)
        active.reset(self._token)
        if error is not None and isinstance(exchange, Exchange):
            # Django makes answers of exceptions, so this one ends the request: a cancelled task, or a worker's exit.
            if isinstance(error, Exception):
                exchange.raised(error)
            else:
                exchange.aborted()


def _headers(response: HttpResponseBase, exchange: Exchange) -> Any:
    found = exchange.door.extras[exchange.assignment[0]]
    if exchange.odd is None and not found.wants_private:
        return found.text
    return more_headers(exchange, [response.headers.get("Cache-Control", "")])


def _append(response: HttpResponseBase, name: str, value: str) -> None:
    """Add to what the app set. Django keeps one value per header, and cookies apart."""
    # What Django's own setter checks per response was checked once, with the plan.
    store = response.headers._store  # noqa: SLF001
    if name == "Set-Cookie":
        response.cookies.load(value)
    elif name.lower() not in store:
        store[name.lower()] = (name, value)
    elif name != "X-Canary-Fallback":
        present = response.headers[name]
        if name == "Vary" and "*" in present:
            return
        parts = {part.strip().lower() for part in present.split(",")}
        new = [part for part in value.split(", ") if part.lower() not in parts]
        response.headers[name] = ", ".join([present, *new])
    else:
        response.headers[name] = value


def _forget(exchange: Exchange) -> None:
    """Drop what was noted on the way and turned out not to matter for the answer."""
    if exchange.status < 500:
        # A process_exception or handler of the app's has made something of it: the request was served.
        exchange.error_type = None
    if exchange.status not in UNAVAILABLE:
        exchange.missed = None


def _gone(exchange: Exchange) -> HttpResponse:
    response = HttpResponse(GONE_BODY, status=410, content_type="text/plain; charset=utf-8")
    for name, value in exchange.door.gone_headers:
        response.headers[name] = value
    return response


# -- streamed answers ------------------------------------------------------------------------------------------


def _watch(response: Any, exchange: Exchange, canary: Canary) -> None:  # Any: StreamingHttpResponse, both colours
    """End the exchange with the stream's last chunk, its error, or ``close()``."""
    if getattr(response, "file_to_stream", None) is None:
        stream = response.streaming_content
        response.streaming_content = (
            _AsyncStream(stream, exchange, canary) if response.is_async else _Stream(stream, exchange, canary)
        )
    # A file is left to the server, which may send it without Python; its close() is its end.
    is_file = getattr(response, "file_to_stream", None) is not None
    closers = response._resource_closers  # noqa: SLF001 - the list that HttpResponseBase.close() works through
    closers.append(exchange.finish if is_file else exchange.aborted)


class _Stream:
    __slots__ = ("_canary", "_exchange", "_iterator")

    def __init__(self, iterator: Iterator[bytes], exchange: Exchange, canary: Canary) -> None:
        self._iterator = iterator
        self._exchange = exchange
        self._canary = canary

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = active.set(self._exchange)
        try:
            return next(self._iterator)
        except StopIteration:
            self._exchange.finish()
            raise
        except BaseException as error:
            self._exchange.raised(error)
            raise
        finally:
            active.reset(token)

    def __del__(self) -> None:
        self._exchange.aborted()


class _AsyncStream:
    __slots__ = ("_canary", "_exchange", "_iterator")

    def __init__(self, iterator: AsyncIterator[bytes], exchange: Exchange, canary: Canary) -> None:
        self._iterator = iterator
        self._exchange = exchange
        self._canary = canary

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        token = active.set(self._exchange)
        try:
            return await anext(self._iterator)
        except StopAsyncIteration:
            self._exchange.finish()
            raise
        except Exception as error:
            self._exchange.raised(error)
            raise
        except BaseException:
            self._exchange.aborted()
            raise
        finally:
            active.reset(token)

    def __del__(self) -> None:
        # Where a client leaves, Django drops the response without closing it.
        self._exchange.aborted()


# -- transactions ----------------------------------------------------------------------------------------------


class _RollingBack:
    """
    A URLconf whose views roll their ATOMIC_REQUESTS transaction back where stable is about to answer for them.

    Only an exception makes Django roll back; a view that *returns* 503 commits, and stable would run on top of it.
    """

    def __init__(self, urlconf: Any) -> None:
        resolver = get_resolver(urlconf)
        self._module = resolver.urlconf_module
        self.urlpatterns = [_guarded(pattern) for pattern in resolver.url_patterns]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)  # handler404 and the like


def _guarded(pattern: Any) -> Any:  # Any: URLPattern or URLResolver
    """The same pattern to all who look at it (reverse(), LocaleMiddleware); only the view it finds is another."""
    resolve = pattern.resolve

    def guarded(path: str) -> Any:
        match = resolve(path)
        if match is not None:
            match.func = _rolled_back(match.func)
        return match

    copied = copy.copy(pattern)
    copied.resolve = guarded
    return copied


def _rolled_back(view: Callable[..., Any]) -> Callable[..., Any]:
    if iscoroutinefunction(view):
        return view  # Django refuses ATOMIC_REQUESTS around async views

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        response = view(*args, **kwargs)
        if getattr(response, "status_code", 200) in UNAVAILABLE:
            for alias in connections:
                connection = connections[alias]
                if connection.settings_dict.get("ATOMIC_REQUESTS") and connection.in_atomic_block:
                    transaction.set_rollback(True, using=alias)
        return response

    return guarded


# -- queries -----------------------------------------------------------------------------------------------------

# db.system.name and db.operation.name of OpenTelemetry's conventions; any other verb would be a label of its own.
_SYSTEMS = {"oracle": "oracle.db", "microsoft": "microsoft.sql_server"}
_OPERATIONS = frozenset(
    (
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "CREATE",
        "ALTER",
        "DROP",
        "WITH",
        "MERGE",
        "CALL",
        "COPY",
        "SET",
        "PRAGMA",
        "EXPLAIN",
        "TRUNCATE",
    )
)


class _QueryTimer:
    """Tells the telemetry of every query, under the version that asks it."""

    def __init__(self, canary: Canary) -> None:
        self._canary = canary

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:  # Any: Django's own, passed through
        canary = self._canary
        if canary.recorder is None:
            return execute(sql, params, many, context)
        started = canary.clock()
        error_type = None
        try:
            return execute(sql, params, many, context)
        except Exception as error:
            error_type = type(error).__qualname__
            raise
        finally:
            verb = sql.lstrip("( ").partition(" ")[0].upper()
            vendor = context["connection"].vendor
            canary.record_db(
                canary.clock() - started,
                _SYSTEMS.get(vendor, vendor),  # pyright: ignore[reportArgumentType]
                verb if verb in _OPERATIONS else "OTHER",
                error_type,
            )

    def install(self, connection: Any, **_: Any) -> None:
        """Once per connection, for as long as it lives: nothing is done per request."""
        wrappers = connection.execute_wrappers
        wrappers[:] = [wrapper for wrapper in wrappers if not isinstance(wrapper, _QueryTimer)]
        wrappers.append(self)


def _time_queries(canary: Canary) -> None:
    timer = _QueryTimer(canary)
    connection_created.connect(timer.install, weak=False, dispatch_uid="canary_middleware")
    for connection in connections.all(initialized_only=True):
        timer.install(connection)


# -- what a failed canary has written --------------------------------------------------------------------------


def _separate(fresh: HttpRequest, request: HttpRequest) -> None:
    """Give *fresh* what the canary may write into, as it is before: session, messages and META."""
    fresh.META = dict(request.META)
    session = getattr(request, "session", None)
    if session is not None:
        twin = copy.copy(session)
        # Not loaded yet: then each loads its own.
        if "_session_cache" in vars(session):
            vars(twin)["_session_cache"] = copy.deepcopy(vars(session)["_session_cache"])
        fresh.session = twin
    messages = getattr(request, "_messages", None)
    if messages is not None:
        vars(fresh)["_messages"] = _own_messages(messages, fresh)


def _own_messages(messages: Any, fresh: HttpRequest) -> Any:  # Any: a message storage, which Django does not type
    twin = copy.copy(messages)
    twin.request = fresh
    vars(twin)["_queued_messages"] = list(vars(messages)["_queued_messages"])
    if hasattr(messages, "storages"):  # the fallback storage is made of others
        twin.storages = [_own_messages(storage, fresh) for storage in messages.storages]
    return twin


def _hand_over(fresh: HttpRequest, request: HttpRequest) -> None:
    """Let the middlewares outside, which hold *request*, see what stable writes: they save it, or set a CSRF cookie."""
    for name in ("META", "session", "_messages"):
        if hasattr(fresh, name):
            setattr(request, name, getattr(fresh, name))


# -- the admin API ---------------------------------------------------------------------------------------------


def _admin(canary: Canary) -> Mount | None:
    """What ``CANARY_ADMIN`` asks for: a path or an ``admin.Admin``; Django's staff may come in."""
    wanted = getattr(settings, "CANARY_ADMIN", None)
    if wanted is None:
        return None
    from .admin import Mount

    return Mount(wanted, canary, _staff)


def _staff(request: HttpRequest) -> Principal | None:
    """Staff may look; superusers, and who has the permission ``CANARY_ADMIN_PERMISSION`` names, may steer."""
    from .admin import Principal

    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or not user.is_active or not user.is_staff:
        return None
    permission = getattr(settings, "CANARY_ADMIN_PERMISSION", None)
    may_write = user.is_superuser or (permission is not None and user.has_perm(permission))
    return Principal(user.get_username(), may_write=bool(may_write))


def admin_view(request: HttpRequest, path: str = "", *, canary: Canary | None = None) -> HttpResponse:
    """
    The admin API as a view, for mounting it by hand: ``path("canary/<path:path>", admin_view)``.

    Add its paths to ``exclude`` in the plan where a rollout covers them; ``CANARY_ADMIN`` needs none of that.
    """
    from .admin import Access, AdminAPI

    api = AdminAPI(get_canary() if canary is None else canary, Access(authenticator=_staff))
    return _administered(api, request, f"/{path}")


# Programs come with a token and no cookie; who comes with a cookie is checked by the API itself.
admin_view.csrf_exempt = True  # type: ignore[attr-defined]


def _administered_aside(api: AdminAPI, request: HttpRequest, path: str) -> HttpResponse:
    """The same in a thread of its own, whose database connections no signal of Django's would ever close."""
    try:
        return _administered(api, request, path)
    finally:
        connections.close_all()


def _administered(api: AdminAPI, request: HttpRequest, path: str) -> HttpResponse:
    from .admin import Request

    method = request.method or "GET"
    query = {name: values[0] for name, values in request.GET.lists()}
    body = b"" if method in ("GET", "HEAD") else _small_body(request)
    answer = api.answer(Request(method, path, query, request.headers.get, body, request))
    response = HttpResponse(answer.body, status=answer.status)
    for name, value in answer.headers:
        response[name] = value
    return response


def _small_body(request: HttpRequest) -> bytes | Problem:
    from .admin.exchange import MAX_BODY, cut_short, too_long, without_length

    size = body_size(request)
    if size > MAX_BODY:
        return too_long()
    if size < 0:
        # Django itself takes a body without a length for none.
        sent = request.headers.get("transfer-encoding") or request.headers.get("content-length")
        return without_length() if sent else b""
    try:
        return request.body if len(request.body) == size else cut_short()
    except UnreadablePostError:
        return cut_short()


# -- system checks ---------------------------------------------------------------------------------------------

_PATH = "canary_middleware.django.CanaryMiddleware"


@checks.register("canary")
def check_settings(**_: object) -> list[checks.CheckMessage]:
    """What ``manage.py check`` says of the settings; ids canary.E001 … E006, W001 … W003 are stable."""
    found: list[checks.CheckMessage] = []
    middleware = list(settings.MIDDLEWARE)
    if _PATH not in middleware:
        return found
    try:
        canary = get_canary()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), hint='Write CANARY = "shop.canary.checkout".', id="canary.E001")]
    except ConfigError as error:
        return [checks.Error(str(error), hint="Mend the plan.", id="canary.E002")]
    if middleware.count(_PATH) > 1:
        found.append(checks.Error("CanaryMiddleware stands in MIDDLEWARE twice.", hint="Keep one.", id="canary.E003"))
    found.extend(_check_dispatch(canary))
    found.extend(
        checks.Error(complaint, hint="A user must keep the same key for a whole rollout.", id="canary.E006")
        for complaint in _fleeting_keys(canary)
    )
    found.extend(_check_order(canary, middleware.index(_PATH), middleware))
    return found


def _check_dispatch(canary: Canary) -> Iterator[checks.CheckMessage]:
    versions = canary.versions()
    for version in getattr(settings, "CANARY_URLCONF", None) or {}:
        if version not in versions:
            yield checks.Error(
                f"CANARY_URLCONF names {version!r}, which is no version.",
                hint=f"The versions are {', '.join(sorted(versions))}.",
                id="canary.E004",
            )
    rewrite = getattr(settings, "CANARY_REWRITE", None)
    if rewrite is not None:
        try:
            Rewrite(rewrite, versions)
        except ConfigError as error:
            yield checks.Error(f"CANARY_REWRITE: {error}", hint="Name one prefix per version.", id="canary.E005")


def _fleeting_keys(canary: Canary) -> Iterator[str]:
    """What is wrong with keys that change from one request to the next."""
    engine = settings.SESSION_ENGINE
    if not any(source == Session() for plan in canary.plan.rollouts for source in plan.key):
        return
    from django.contrib.sessions.backends.signed_cookies import SessionStore

    if issubclass(import_string(f"{engine}.SessionStore"), SessionStore):
        yield (
            f"The plan's key is the session's own, and with SESSION_ENGINE = {engine!r} that changes whenever the "
            'session is saved: users would flip between versions. Take by_user(), or by_session("…") with the name of '
            "a value that the session keeps."
        )


def _check_order(canary: Canary, position: int, middleware: list[str]) -> Iterator[checks.CheckMessage]:
    before = middleware[:position]
    sources = [source for plan in canary.plan.rollouts for source in plan.key]
    needed = (
        (Session, "SessionMiddleware", "canary.W001"),
        (User, "AuthenticationMiddleware", "canary.W002"),
    )
    for kind, name, identifier in needed:
        if any(isinstance(source, kind) for source in sources) and not any(name in entry for entry in before):
            yield checks.Warning(
                f"The plan's key reads the {kind.__name__.lower()}, but no {name} stands before CanaryMiddleware.",
                hint=f"Move CanaryMiddleware behind {name}: until then that source never yields an identity.",
                id=identifier,
            )
    if any("GZipMiddleware" in entry or "UpdateCacheMiddleware" in entry for entry in middleware[position:]):
        yield checks.Warning(
            "A cache or GZip middleware stands behind CanaryMiddleware.",
            hint="Put caches outside versions' reach: move it before CanaryMiddleware, or its entries mix versions.",
            id="canary.W003",
        )
