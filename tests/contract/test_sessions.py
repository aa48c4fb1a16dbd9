"""The framework's own user and session are identities: read before dispatch, never written."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_header, by_session, by_user, current, handlers
from canary_middleware import asgi as canary_asgi
from canary_middleware import wsgi as canary_wsgi
from tests.adapters.django_project import database, project, urlconf

from .clients import asgi_request, wsgi_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .behaviour import Answer

    Visit = Callable[..., Answer]

OURS = "canary_middleware.django.CanaryMiddleware"
DJANGO = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    OURS,
]


def make(*key: Any, **fields: Any) -> Canary:
    return Canary("checkout", **{"weight": 50, "key": list(key), "environ": {}, **fields})


def says() -> str:
    served = current()
    return f"{served.version} {served.reason} {served.bucket}"


def told(canary: Canary, identity: str | None) -> str:
    if identity is None:
        return "v1 no_identity None"
    return f"{canary.version_for(identity)} weight {canary.explain(identity)['bucket']}"


# -- one way to visit per framework -----------------------------------------------------------------------------


@contextmanager
def flask_site(canary: Canary) -> Iterator[Visit]:
    """Flask's signed cookie; Flask-Login keeps its user under ``_user_id``."""
    import flask

    from canary_middleware.flask import init_app

    app = flask.Flask("sessions")
    app.secret_key = "s3cret"
    app.add_url_rule("/", view_func=handlers(lambda: says(), lambda: says()))
    init_app(app, canary)
    signer: Any = flask.sessions.SecureCookieSessionInterface().get_signing_serializer(app)

    def visit(user: str | None, values: dict[str, Any], cookie: str = "") -> Answer:
        kept = {**values, **({} if user is None else {"_user_id": user})}
        cookie = signer.dumps(kept) if kept else cookie
        return wsgi_request(app, headers={"cookie": f"session={cookie}"} if cookie else {})

    yield visit


@contextmanager
def starlette_site(canary: Canary) -> Iterator[Visit]:
    """Starlette's SessionMiddleware and AuthenticationMiddleware, outside ours."""
    import itsdangerous
    from starlette.applications import Starlette
    from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
    from starlette.middleware import Middleware
    from starlette.middleware.authentication import AuthenticationMiddleware
    from starlette.middleware.sessions import SessionMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    class Backend(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> Any:
            user = conn.session.get("user")
            return None if user is None else (AuthCredentials(["authenticated"]), SimpleUser(user))

    async def view(request: Any) -> Any:
        return PlainTextResponse(says())

    middleware = [
        Middleware(SessionMiddleware, secret_key="s3cret"),
        Middleware(AuthenticationMiddleware, backend=Backend()),
        Middleware(canary_asgi.CanaryMiddleware, canary=canary),
    ]
    app = Starlette(routes=[Route("/", handlers(view, view))], middleware=middleware)

    def visit(user: str | None, values: dict[str, Any], cookie: str = "") -> Answer:
        kept = {**values, **({} if user is None else {"user": user})}
        signed = itsdangerous.TimestampSigner("s3cret").sign(b64encode(json.dumps(kept).encode())).decode()
        cookie = signed if kept else cookie
        return asgi_request(app, headers={"cookie": f"session={cookie}"} if cookie else {})

    yield visit


@contextmanager
def asgi_site(canary: Canary) -> Iterator[Visit]:
    """A bare app behind somebody's middleware that fills the scope."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": says().encode()})

    class User:
        is_authenticated = True

        def __init__(self, name: str) -> None:
            self.username = name

    wrapped = canary_asgi.CanaryMiddleware(app, canary=canary)

    def visit(user: str | None, values: dict[str, Any]) -> Answer:
        scope = {"session": dict(values), **({} if user is None else {"user": User(user)})}
        return asgi_request(wrapped, scope=scope)

    yield visit


@contextmanager
def wsgi_site(canary: Canary) -> Iterator[Visit]:
    """A bare app whose server knows the user (RFC 3875 §4.1.11). WSGI has no sessions."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [says().encode()]

    wrapped = canary_wsgi.CanaryMiddleware(app, canary=canary)
    yield lambda user, values: wsgi_request(wrapped, environ={} if user is None else {"REMOTE_USER": user})


@contextmanager
def django_site(canary: Canary, *, is_async: bool) -> Iterator[Visit]:
    """Django's sessions and users, in SQLite."""
    from tests.contract.drivers import configure_django

    configure_django()
    from django.http import HttpResponse
    from django.urls import path

    def view(request: Any) -> Any:
        return HttpResponse(says())

    async def aview(request: Any) -> Any:
        return HttpResponse(says())

    chosen: Any = aview if is_async else view
    urls = urlconf([path("", handlers(chosen, chosen))])
    engine = "django.contrib.sessions.backends.db"
    with (
        database(),
        project(canary, urls, middleware=DJANGO, is_async=is_async, SESSION_ENGINE=engine) as client,
    ):

        def visit(user: str | None, values: dict[str, Any], cookie: str = "") -> Answer:
            cookie = cookie or _django_session(user, values)
            return client(headers={"x-user-id": "u", **({"cookie": f"sessionid={cookie}"} if cookie else {})})

        yield visit


def _django_session(user: str | None, values: dict[str, Any]) -> str:
    """The key of a session in the database that holds *values*, signed in as the user with that id."""
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session.update(values)
    if user is not None:
        account, _ = User.objects.get_or_create(pk=int(user), username=f"user-{user}")
        session["_auth_user_id"] = user
        session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
        session["_auth_user_hash"] = account.get_session_auth_hash()
    if not list(session.keys()):
        return ""
    session.create()
    return str(session.session_key)


SITES: dict[str, Callable[[Canary], Any]] = {
    "wsgi": wsgi_site,
    "asgi": asgi_site,
    "flask": flask_site,
    "starlette": starlette_site,
    "django-sync": lambda canary: django_site(canary, is_async=False),
    "django-async": lambda canary: django_site(canary, is_async=True),
}
WITH_SESSIONS = [name for name in SITES if name != "wsgi"]


# -- what holds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_the_user_who_is_signed_in_is_the_identity(site: str) -> None:
    canary = make(by_user())

    with SITES[site](canary) as visit:
        answers = {user: visit(user, {}).text for user in ("7", "8", "9", "10", "11")}
        nobody = visit(None, {})

    assert answers == {user: told(canary, user) for user in answers}
    assert (nobody.status, nobody.text) == (200, told(canary, None))
    assert canary.internal_errors() == {}


@pytest.mark.parametrize("site", WITH_SESSIONS)
def test_a_value_of_the_session_is_the_identity(site: str) -> None:
    canary = make(by_session("tenant"))

    with SITES[site](canary) as visit:
        assert visit(None, {"tenant": "acme"}).text == told(canary, "acme")
        assert visit("7", {"tenant": "acme"}).text == told(canary, "acme")
        assert visit(None, {"tenant": 12}).text == told(canary, "12")
        assert visit(None, {"tenant": ""}).text == told(canary, None)
        assert visit(None, {"other": "acme"}).text == told(canary, None)
        assert visit(None, {}).text == told(canary, None)

    assert canary.internal_errors() == {}


@pytest.mark.parametrize("site", WITH_SESSIONS)
def test_reading_a_session_neither_makes_nor_changes_one(site: str) -> None:
    canary = make(by_session("tenant"), by_user())

    with SITES[site](canary) as visit:
        answers = [visit(None, {}), visit("7", {"tenant": "acme"})]

    if site == "starlette":
        answers.pop()  # it renews its cookie on every answer, with us or without
    assert {answer.header("Set-Cookie") for answer in answers} == {None}


def test_without_sessions_a_bare_wsgi_app_has_no_identity_there() -> None:
    canary = make(by_session("tenant"), by_session())

    with wsgi_site(canary) as visit:
        assert visit("7", {"tenant": "acme"}).text == told(canary, None)


@pytest.mark.parametrize("site", ["django-sync", "django-async"])
def test_djangos_session_key_is_an_identity(site: str) -> None:
    canary = make(by_session())

    with SITES[site](canary) as visit:
        keys = [_django_session(None, {"n": n}) for n in range(5)]
        assert [visit(None, {}, cookie=key).text for key in keys] == [told(canary, key) for key in keys]
        assert visit(None, {}).text == told(canary, None)


@pytest.mark.parametrize("name", ["session_id", "id"])
@pytest.mark.parametrize("site", ["asgi", "starlette"])
def test_an_asgi_sessions_own_id_is_an_identity(site: str, name: str) -> None:
    canary = make(by_session())

    with SITES[site](canary) as visit:
        assert visit(None, {name: "s-1"}).text == told(canary, "s-1")


def test_flask_logins_session_id_is_an_identity() -> None:
    canary = make(by_session())

    with flask_site(canary) as visit:
        assert visit(None, {"_id": "s-1"}).text == told(canary, "s-1")


FORGED = {"flask": "eyJ0ZW5hbnQiOiJhY21lIn0.aaaaaa.forged", "starlette": "eyJ0ZW5hbnQiOiJhY21lIn0=.aaaaaa.forged"}


@pytest.mark.parametrize("site", FORGED)
def test_a_forged_session_is_none(site: str) -> None:
    canary = make(by_session("tenant"), by_user())

    with SITES[site](canary) as visit:
        answer = visit(None, {}, cookie=FORGED[site])

    assert (answer.status, answer.text) == (200, told(canary, None))
    assert canary.internal_errors() == {}


def test_flask_without_a_secret_has_no_sessions_and_no_error() -> None:
    import flask

    from canary_middleware.flask import init_app

    canary = make(by_session("tenant"), by_user())
    app = flask.Flask("bare")
    app.add_url_rule("/", view_func=says)
    init_app(app, canary)

    assert wsgi_request(app).text == told(canary, None)
    assert canary.internal_errors() == {}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_session_store_that_is_down_costs_the_identity_and_not_the_answer(is_async: bool) -> None:
    canary = make(by_session("tenant"), by_header("x-user-id"))

    with django_site(canary, is_async=is_async) as visit:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE django_session")
        answer = visit(None, {}, cookie="a" * 32)

    assert (answer.status, answer.text) == (200, told(canary, "u"))
    assert canary.internal_errors() == {("identity", "OperationalError"): 1}
