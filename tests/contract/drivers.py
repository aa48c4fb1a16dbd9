"""
Six ways to put the same versions behind the middleware. A driver makes an app of behaviours and sends it requests.
"""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from canary_middleware import Canary, handlers
from canary_middleware import asgi as canary_asgi
from canary_middleware import wsgi as canary_wsgi

from .behaviour import Answer, Behaviour, Call, Reply
from .clients import asgi_request, wsgi_request

if TYPE_CHECKING:
    from typing import Unpack

    from canary_middleware.admin import Admin

Versions = Mapping[str, Behaviour]
"""``v1`` and ``v2`` (and more) → what they do."""


class How(TypedDict, total=False):
    """
    Parts of the middleware that a test needs.

    Attributes:
        rewrite: dispatch by path prefix: the version whose prefix the path has at last is the one that answers.
        admin: where the admin API stands.
    """

    rewrite: dict[str, str] | None
    admin: str | Admin | None


class Client(Protocol):
    """Sends one request to the app under test."""

    def __call__(
        self, method: str = "GET", target: str = "/", headers: Any = (), body: bytes = b"", **options: Any
    ) -> Answer: ...


class Driver(Protocol):
    """One framework in one colour."""

    name: str
    is_async: bool
    has_middleware_exceptions: bool
    """Whether a failing view reaches the server as an exception (bare apps, Starlette) or as a 500."""

    def serve(self, canary: Canary | None, versions: Versions, **how: Unpack[How]) -> AbstractContextManager[Client]:
        """
        An app with one catch-all route, dispatched by ``handlers``, or *how* it says. Without a *canary*: what ``v1``
        is alone, without us.
        """
        ...


def _view(
    make: Callable[[Behaviour], Any], canary: Canary | None, versions: Versions, rewrite: Mapping[str, str] | None
) -> Any:
    """The versions as one view of the framework's."""
    if rewrite is not None:
        return make(_pick_by_prefix(rewrite, versions))
    views = {name: make(behaviour) for name, behaviour in versions.items()}
    stable = views.pop("v1")
    if canary is None:
        return stable
    return handlers(stable, views["v2"]) if list(views) == ["v2"] else handlers(stable, **views)


def _pick_by_prefix(rewrite: Mapping[str, str], versions: Versions) -> Behaviour:
    def behave(call: Call) -> Reply:
        for version, prefix in rewrite.items():
            if version in versions and call.path.startswith(prefix + "/"):
                return versions[version](call)
        return Reply(status=404, body=call.path.encode())

    return behave


# -- bare WSGI -------------------------------------------------------------------------------------------------


def _wsgi_view(behaviour: Behaviour) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        is_chunked = environ.get("wsgi.input_terminated", False)
        body = environ["wsgi.input"].read(-1 if is_chunked else length) if length or is_chunked else b""
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        reply = behaviour(Call(method=environ["REQUEST_METHOD"], path=path, body=body))
        start_response(f"{reply.status} Whatever", list(reply.headers))
        return reply.chunks() if reply.chunks is not None else [reply.body]

    return app


class Wsgi:
    name = "wsgi"
    is_async = False
    has_middleware_exceptions = True

    @contextmanager
    def serve(self, canary: Canary | None, versions: Versions, **how: Unpack[How]) -> Iterator[Client]:
        rewrite = how.get("rewrite")
        if rewrite is not None:
            app = _wsgi_view(_pick_by_prefix(rewrite, versions))
        else:
            views = {name: _wsgi_view(behaviour) for name, behaviour in versions.items()}
            stable = views.pop("v1")
            app = stable if canary is None else canary_wsgi.apps(stable, **views)
        wrapped = app if canary is None else canary_wsgi.CanaryMiddleware(app, canary=canary, **how)
        yield lambda *args, **kwargs: wsgi_request(wrapped, *args, **kwargs)


# -- bare ASGI -------------------------------------------------------------------------------------------------


def _asgi_view(behaviour: Behaviour) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        reply = behaviour(Call(method=scope["method"], path=scope["path"], body=body))
        headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if reply.chunks is None:
            await send({"type": "http.response.body", "body": reply.body})
            return
        for chunk in reply.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


class Asgi:
    name = "asgi"
    is_async = True
    has_middleware_exceptions = True

    @contextmanager
    def serve(self, canary: Canary | None, versions: Versions, **how: Unpack[How]) -> Iterator[Client]:
        rewrite = how.get("rewrite")
        if rewrite is not None:
            app = _asgi_view(_pick_by_prefix(rewrite, versions))
        else:
            views = {name: _asgi_view(behaviour) for name, behaviour in versions.items()}
            stable = views.pop("v1")
            app = stable if canary is None else canary_asgi.apps(stable, **views)
        wrapped = app if canary is None else canary_asgi.CanaryMiddleware(app, canary=canary, **how)
        yield lambda *args, **kwargs: asgi_request(wrapped, *args, **kwargs)


# -- Flask -----------------------------------------------------------------------------------------------------


class Flask:
    name = "flask"
    is_async = False
    has_middleware_exceptions = False

    @contextmanager
    def serve(self, canary: Canary | None, versions: Versions, **how: Unpack[How]) -> Iterator[Client]:
        import flask
        from werkzeug.datastructures import Headers

        from canary_middleware.flask import init_app

        def make(behaviour: Behaviour) -> Any:
            def view(**_: str) -> flask.Response:
                request = flask.request
                reply = behaviour(Call(method=request.method, path=request.path, body=request.get_data()))
                content: Any = reply.chunks() if reply.chunks is not None else reply.body
                return flask.Response(content, status=reply.status, headers=Headers(list(reply.headers)))

            return view

        app = flask.Flask("contract")
        app.secret_key = "contract"
        app.logger.disabled = True
        view = _view(make, canary, versions, how.get("rewrite"))
        methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
        app.add_url_rule("/", "root", view, methods=methods, provide_automatic_options=False)
        app.add_url_rule("/<path:rest>", "rest", view, methods=methods, provide_automatic_options=False)
        if canary is not None:
            init_app(app, canary, **how)
        yield lambda *args, **kwargs: wsgi_request(app, *args, **kwargs)


# -- FastAPI ---------------------------------------------------------------------------------------------------


class FastApi:
    name = "fastapi"
    is_async = True
    has_middleware_exceptions = True

    @contextmanager
    def serve(self, canary: Canary | None, versions: Versions, **how: Unpack[How]) -> Iterator[Client]:
        import fastapi
        from fastapi.responses import Response, StreamingResponse

        from canary_middleware.fastapi import CanaryMiddleware

        def make(behaviour: Behaviour) -> Any:
            async def view(request: fastapi.Request) -> Response:
                call = Call(method=request.method, path=request.url.path, body=await request.body())
                reply = behaviour(call)
                response: Response
                if reply.chunks is not None:
                    response = StreamingResponse(reply.chunks(), status_code=reply.status)
                else:
                    response = Response(reply.body, status_code=reply.status)
                for name, value in reply.headers:
                    if name.lower() == "content-type":
                        response.headers[name] = value
                    else:
                        response.headers.append(name, value)
                return response

            view.__annotations__["request"] = fastapi.Request
            view.__annotations__["return"] = Response
            return view

        app = fastapi.FastAPI(openapi_url=None)
        view = _view(make, canary, versions, how.get("rewrite"))
        methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
        app.add_api_route("/{rest:path}", view, methods=methods)
        if canary is not None:
            app.add_middleware(CanaryMiddleware, canary=canary, **how)
        yield lambda *args, **kwargs: asgi_request(app, *args, **kwargs)


# -- Django, both colours --------------------------------------------------------------------------------------


def configure_django() -> None:
    """Settings for the whole test process, made once."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            SECRET_KEY="contract",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="tests.contract.empty_urls",
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
            SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            LOGGING_CONFIG=None,
            MIDDLEWARE=[],
            USE_TZ=True,
        )
        django.setup()


class _Django:
    is_async: bool
    has_middleware_exceptions = False

    def _make(self, behaviour: Behaviour) -> Any:
        raise NotImplementedError

    def _client(self) -> Client:
        raise NotImplementedError

    @contextmanager
    def serve(self, canary: Canary | None, versions: Versions, **how: Unpack[How]) -> Iterator[Client]:
        configure_django()
        from django.test import override_settings
        from django.urls import re_path

        view = _view(self._make, canary, versions, how.get("rewrite"))
        urls = types.ModuleType("contract_urls")
        urls.urlpatterns = [re_path(r"^(?P<rest>.*)$", view)]  # type: ignore[attr-defined]
        middleware = ["django.contrib.sessions.middleware.SessionMiddleware"]
        if canary is not None:
            middleware.append("canary_middleware.django.CanaryMiddleware")
        names = {"CANARY": canary, "CANARY_REWRITE": how.get("rewrite"), "CANARY_ADMIN": how.get("admin")}
        with override_settings(**names, ROOT_URLCONF=urls, MIDDLEWARE=middleware):
            yield self._client()


def _django_response(reply: Reply, *, is_async: bool) -> Any:
    from django.http import HttpResponse, StreamingHttpResponse

    response: Any
    if reply.chunks is None:
        response = HttpResponse(reply.body, status=reply.status)
    else:
        response = StreamingHttpResponse(_in_async(reply.chunks()) if is_async else reply.chunks(), status=reply.status)
    for name, value in reply.headers:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response.headers[name] = value
    return response


async def _in_async(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class DjangoSync(_Django):
    name = "django-sync"
    is_async = False

    def _make(self, behaviour: Behaviour) -> Any:
        def view(request: Any, rest: str = "") -> Any:
            reply = behaviour(Call(method=request.method, path=request.path, body=request.body))
            return _django_response(reply, is_async=False)

        return view

    def _client(self) -> Client:
        from django.core.handlers.wsgi import WSGIHandler

        app = WSGIHandler()
        return lambda *args, **kwargs: wsgi_request(app, *args, **kwargs)


class DjangoAsync(_Django):
    name = "django-async"
    is_async = True

    def _make(self, behaviour: Behaviour) -> Any:
        async def view(request: Any, rest: str = "") -> Any:
            reply = behaviour(Call(method=request.method, path=request.path, body=request.body))
            return _django_response(reply, is_async=True)

        return view

    def _client(self) -> Client:
        from django.core.handlers.asgi import ASGIHandler

        app = ASGIHandler()
        return lambda *args, **kwargs: asgi_request(app, *args, **kwargs)


DRIVERS: tuple[Driver, ...] = (Wsgi(), Asgi(), Flask(), FastApi(), DjangoSync(), DjangoAsync())
