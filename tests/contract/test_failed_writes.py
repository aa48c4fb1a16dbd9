"""What a canary wrote into the session before it failed is gone; what stable writes is kept."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, handlers
from canary_middleware import asgi as canary_asgi
from tests.adapters.django_project import database, project, urlconf

from .clients import asgi_request, wsgi_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from .behaviour import Answer

    Visit = Callable[[str], Answer]

BEFORE = {"cart": ["book"], "seen": 1}


def canary() -> Canary:
    users = {"v2": ["anybody"]}
    return Canary("checkout", key=[lambda _: "anybody"], overrides={"users": users}, environ={})


def fails(session: MutableMapping[str, Any]) -> None:
    """v2: changes everything there is, in depth too, and fails."""
    session["cart"] = [*session.get("cart", []), "bicycle"]
    session.setdefault("deep", {})["v2"] = True
    session["seen"] = session.get("seen", 0) + 10
    session.pop("gone", None)
    raise RuntimeError("v2 is broken")


def writes(session: MutableMapping[str, Any]) -> str:
    """v1: says what it finds, and counts."""
    found = json.dumps(dict(session.items()), sort_keys=True)
    session["seen"] = session.get("seen", 0) + 1
    return found


# -- one site per framework: visit(cookie) → answer -----------------------------------------------------------------


@contextmanager
def flask_site() -> Iterator[Visit]:
    import flask

    from canary_middleware.flask import init_app

    app = flask.Flask("writes")
    app.secret_key = "s3cret"
    app.logger.disabled = True

    def one() -> str:
        return writes(flask.session)

    def two() -> None:
        fails(flask.session)

    app.add_url_rule("/", view_func=handlers(one, two))
    init_app(app, canary())
    yield lambda cookie: wsgi_request(app, headers={"cookie": cookie} if cookie else {})


@contextmanager
def starlette_site() -> Iterator[Visit]:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def one(request: Any) -> Any:
        return PlainTextResponse(writes(request.session))

    async def two(request: Any) -> None:
        fails(request.session)

    middleware = [
        Middleware(SessionMiddleware, secret_key="s3cret"),
        Middleware(canary_asgi.CanaryMiddleware, canary=canary()),
    ]
    app = Starlette(routes=[Route("/", handlers(one, two))], middleware=middleware)
    yield lambda cookie: asgi_request(app, headers={"cookie": cookie} if cookie else {})


@contextmanager
def django_site(*, is_async: bool, engine: str) -> Iterator[Visit]:
    from tests.contract.drivers import configure_django

    configure_django()
    from django.contrib import messages
    from django.http import HttpResponse
    from django.urls import path

    def one(request: Any) -> Any:
        text = writes(request.session)
        messages.info(request, "from v1")
        return HttpResponse(text)

    def two(request: Any) -> None:
        messages.info(request, "from v2")
        fails(request.session)

    async def async_one(request: Any) -> Any:
        return one(request)

    async def async_two(request: Any) -> None:
        two(request)

    pair = (async_one, async_two) if is_async else (one, two)
    urls = urlconf([path("", handlers(*pair))])
    middleware = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "canary_middleware.django.CanaryMiddleware",
    ]
    options = {"SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}"}
    with database(), project(canary(), urls, middleware=middleware, is_async=is_async, **options) as client:
        yield lambda cookie: client(headers={"cookie": cookie} if cookie else {})


SITES: dict[str, Callable[[], Any]] = {
    "flask": flask_site,
    "starlette": starlette_site,
    "django-signed": lambda: django_site(is_async=False, engine="signed_cookies"),
    "django-async-signed": lambda: django_site(is_async=True, engine="signed_cookies"),
}


def cookies(answer: Answer, before: str = "") -> str:
    kept = dict(part.split("=", 1) for part in before.split("; ") if part)
    for name, value in answer.headers:
        if name.lower() == "set-cookie":
            key, _, text = value.partition(";")[0].partition("=")
            kept[key] = text
    return "; ".join(f"{key}={value}" for key, value in kept.items())


@pytest.mark.parametrize("name", SITES)
def test_stable_finds_the_session_as_it_was_and_its_own_writes_are_kept(name: str) -> None:
    with SITES[name]() as visit:
        first = visit("")
        held = cookies(first)
        second = visit(held)
        third = visit(cookies(second, held))

    assert [answer.status for answer in (first, second, third)] == [200, 200, 200]
    assert [json.loads(answer.text).get("seen", 0) for answer in (first, second, third)] == [0, 1, 2]
    assert all(set(json.loads(answer.text)) <= {"seen"} for answer in (first, second, third))


@pytest.mark.parametrize("is_async", [False, True])
def test_messages_of_a_failed_canary_are_not_shown(is_async: bool) -> None:
    with django_site(is_async=is_async, engine="signed_cookies") as visit:
        held = cookies(visit(""))

    assert "messages=" in held
    from django.contrib.messages.storage.cookie import CookieStorage
    from django.test import RequestFactory

    request = RequestFactory().get("/", headers={"cookie": held})
    assert [str(message) for message in CookieStorage(request)] == ["from v1"]


def test_a_session_that_is_no_dict_is_left_alone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["state"]["canary"].version == "v2":
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["session"].encode()})

    wrapped = canary_asgi.CanaryMiddleware(app, canary=canary())

    assert asgi_request(wrapped, scope={"session": "of somebody's making"}).text == "of somebody's making"


def test_a_session_that_cannot_be_copied_is_told_once_and_stable_answers_all_the_same() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["state"]["canary"].version == "v2":
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one"})

    served = canary()
    wrapped = canary_asgi.CanaryMiddleware(app, canary=served)

    assert asgi_request(wrapped, scope={"session": {"pool": threading.Lock()}}).text == "one"
    assert served.internal_errors() == {("fallback", "TypeError"): 1}


@pytest.mark.parametrize("is_async", [False, True])
def test_djangos_other_storages_are_told_once_and_stable_answers_all_the_same(is_async: bool) -> None:
    from django.http import HttpResponse
    from django.urls import path

    def one(request: Any) -> Any:
        return HttpResponse("one")

    def two(request: Any) -> None:
        raise RuntimeError

    def key(request: Any) -> str:
        request._messages = "of somebody's making"
        return "anybody"

    served = Canary("checkout", key=[key], overrides={"users": {"v2": ["anybody"]}}, environ={})
    with project(served, urlconf([path("", handlers(one, two))]), is_async=is_async) as client:
        assert client().text == "one"

    assert served.internal_errors() == {("fallback", "AttributeError"): 1}


@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_failed_canary_wrote_into_meta_is_gone_and_what_stable_writes_reaches_djangos_csrf(
    is_async: bool,
) -> None:
    from django.http import HttpResponse
    from django.middleware.csrf import get_token
    from django.urls import path

    def one(request: Any) -> Any:
        get_token(request)
        return HttpResponse(str(request.META.get("v2")))

    def two(request: Any) -> None:
        request.META["v2"] = True
        raise RuntimeError

    urls = urlconf([path("", handlers(one, two))])
    middleware = ["django.middleware.csrf.CsrfViewMiddleware", "canary_middleware.django.CanaryMiddleware"]
    with project(canary(), urls, middleware=middleware, is_async=is_async) as client:
        answer = client()

    assert answer.text == "None"
    assert "csrftoken=" in cookies(answer)
