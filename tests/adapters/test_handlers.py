"""``handlers`` makes one handler of several, or says at import what keeps them from being one."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from canary_middleware import Canary, by_header, current, handlers
from canary_middleware.errors import ConfigError, NoAssignment
from canary_middleware.testing import force, recorded
from canary_middleware.wsgi import CanaryMiddleware
from tests.contract.clients import asgi_request, wsgi_request
from tests.contract.drivers import configure_django

if TYPE_CHECKING:
    from collections.abc import Callable


def make(**fields: Any) -> Canary:
    return Canary("checkout", **{"weight": 100, "key": [by_header("x-user-id")], "environ": {}, **fields})


def under(canary: Canary, call: Callable[[], object]) -> object:
    """What *call* gives inside a request of user ``u``."""
    found: list[object] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        found.append(call())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    wsgi_request(CanaryMiddleware(app, canary=canary), headers={"x-user-id": "u"})
    return found[0]


def plain(request: object, page: int = 1) -> str:
    """The first."""
    return f"plain {page}"


def other(request: object, page: int = 2) -> str:
    return f"other {page}"


async def coroutine(request: object, page: int = 1) -> str:
    return "coroutine"


def test_a_pair_looks_like_its_stable_handler() -> None:
    plain.mark = "kept"  # type: ignore[attr-defined]

    pair = handlers(plain, other)

    assert (pair.__name__, pair.__doc__, pair.__module__, pair.__wrapped__) == (
        "plain",
        "The first.",
        __name__,
        plain,
    )
    assert (pair.mark, inspect.signature(pair)) == ("kept", inspect.signature(plain))
    assert not inspect.iscoroutinefunction(pair)
    assert inspect.iscoroutinefunction(handlers(coroutine, coroutine))


def test_each_handler_keeps_its_own_defaults_and_gets_the_callers_arguments() -> None:
    pair = handlers(plain, other)

    assert under(make(), lambda: pair(None)) == "other 2"
    assert under(make(), lambda: pair(None, page=7)) == "other 7"
    assert under(make(weight=0), lambda: pair(None)) == "plain 1"


@pytest.mark.parametrize(
    ("stable", "canary", "message"),
    [
        (plain, coroutine, "plain is def and coroutine is async def: make both the same"),
        (coroutine, plain, "coroutine is async def and plain is def: make both the same"),
        (plain, "shop.views.v2", "'shop.views.v2': must be a function"),
    ],
)
def test_handlers_of_different_colours_are_refused(stable: Any, canary: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        handlers(stable, canary)


@pytest.mark.parametrize(
    "canary",
    [
        lambda request: "",
        lambda request, page: "",
        lambda request, pages=1: "",
        lambda request, *, page=1: "",
        lambda request, page=1, size=2: "",
        lambda page=1, request=None: "",
    ],
)
def test_handlers_of_different_signatures_are_refused_with_both(canary: Any) -> None:
    with pytest.raises(ConfigError, match=r"plain\(request, page\) and .*take different arguments: give .* of plain"):
        handlers(plain, canary)


def test_a_handler_that_takes_anything_goes_with_every_other() -> None:
    pair = handlers(plain, lambda *args, **kwargs: f"anything {kwargs}")

    assert under(make(), lambda: pair(None, page=3)) == "anything {'page': 3}"


def test_objects_with_call_are_handlers_of_their_own_colour() -> None:
    class View:
        def __call__(self, request: object, page: int = 1) -> str:
            return "object"

    class AsyncView:
        async def __call__(self, request: object, page: int = 1) -> str:
            return "object"

    assert under(make(), lambda: handlers(plain, View())(None)) == "object"
    with pytest.raises(ConfigError, match="make both the same"):
        handlers(plain, AsyncView())


@pytest.mark.parametrize("given", [lambda: handlers(plain), lambda: handlers(plain, other, v3=other)])
def test_one_handler_or_two_ways_to_name_them_are_refused(given: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"pass \(stable, canary\), or \(stable, v2="):
        given()


def test_several_versions_go_by_name() -> None:
    canary = make(canary={"v2": 50, "2026-06": 50})
    pair = handlers(lambda: "one", v2=lambda: "two", **{"2026-06": lambda: "june"})

    with force(canary, "2026-06"):
        assert under(canary, pair) == "june"
    with force(canary, "v2"):
        assert under(canary, pair) == "two"
    with force(canary, "v1"):
        assert under(canary, pair) == "one"


def test_a_version_without_a_handler_is_served_by_stable_and_told_once() -> None:
    canary = make(canary={"v2": 50, "v3": 50})
    pair = handlers(lambda: (current().version, current().reason), v2=lambda: ("v2", ""))

    with force(canary, "v3"), recorded(canary) as outcomes:
        assert under(canary, pair) == ("v1", "error")

    assert [(o.assignment.version, o.served_by) for o in outcomes] == [("v3", "v1")]
    assert canary.internal_errors() == {("dispatch", "LookupError"): 1}


def test_outside_a_request_a_pair_says_what_is_missing() -> None:
    for call in (current, lambda: handlers(plain, other)(None)):
        with pytest.raises(NoAssignment) as caught:
            call()
        message = str(caught.value)
        assert all(word in message for word in ("CanaryMiddleware", "flask.init_app", "version_for", "copy_context"))


# -- Django ---------------------------------------------------------------------------------------------------------


def test_handlers_whose_guards_differ_are_refused() -> None:
    configure_django()
    from django.db import transaction
    from django.views.decorators.csrf import csrf_exempt

    def first(request: object) -> None: ...
    def second(request: object) -> None: ...

    exempt = csrf_exempt(second)
    loose = transaction.non_atomic_requests(second)
    login = lambda request: None  # noqa: E731
    login.login_required = False  # type: ignore[attr-defined]

    for guard, pair in (
        ("csrf_exempt", (first, exempt)),
        ("csrf_exempt", (exempt, first)),
        ("_non_atomic_requests", (first, loose)),
        ("login_required", (first, login)),
    ):
        with pytest.raises(ConfigError, match=f"{guard} is .* decorate both alike"):
            handlers(*pair)
    assert handlers(csrf_exempt(first), exempt).csrf_exempt is True


def _class_views(*, is_async: bool) -> tuple[Any, Any]:
    from django.http import HttpResponse
    from django.views import View

    def view(text: str) -> Any:
        if is_async:

            async def aget(self: Any, request: Any) -> Any:
                return HttpResponse(text)

            return type(text, (View,), {"get": aget}).as_view()  # type: ignore[attr-defined]

        def get(self: Any, request: Any) -> Any:
            return HttpResponse(text)

        return type(text, (View,), {"get": get}).as_view()  # type: ignore[attr-defined]

    return view("one"), view("two")


@pytest.mark.parametrize("is_async", [False, True])
def test_class_based_views_of_django_are_handlers(is_async: bool) -> None:
    configure_django()
    from asgiref.sync import async_to_sync, iscoroutinefunction
    from django.test import RequestFactory

    pair = handlers(*_class_views(is_async=is_async))
    request = RequestFactory().get("/")

    assert iscoroutinefunction(pair) == is_async
    assert pair.view_class.__name__ == "one"
    assert under(make(), lambda: (async_to_sync(pair) if is_async else pair)(request).content) == b"two"
    with pytest.raises(ConfigError, match="make both the same"):
        handlers(_class_views(is_async=is_async)[0], _class_views(is_async=not is_async)[1])


# -- Flask ----------------------------------------------------------------------------------------------------------


def test_class_based_views_of_flask_are_handlers() -> None:
    import flask
    from flask.views import MethodView

    from canary_middleware.flask import init_app

    class One(MethodView):
        def get(self, item: int) -> str:
            return f"one {item}"

    class Two(MethodView):
        def get(self, item: int) -> str:
            return f"two {item}"

    app = flask.Flask("handlers")
    app.add_url_rule("/<int:item>", view_func=handlers(One.as_view("items"), Two.as_view("items2")))
    init_app(app, make())

    assert wsgi_request(app, target="/3", headers={"x-user-id": "u"}).text == "two 3"
    assert wsgi_request(app, target="/3").text == "one 3"
    assert wsgi_request(app, "POST", target="/3").status == 405


# -- FastAPI --------------------------------------------------------------------------------------------------------


def _fast(canary: Canary, pair: Any, **options: Any) -> Any:
    import fastapi

    from canary_middleware.fastapi import CanaryMiddleware as Middleware

    app = fastapi.FastAPI()
    app.add_api_route("/items/{item}", pair, **options)
    app.add_middleware(Middleware, canary=canary)
    return app


def test_the_response_models_of_both_are_kept() -> None:
    from pydantic import BaseModel

    class One(BaseModel):
        id: int

    class Two(BaseModel):
        id: int
        name: str

    def one(item: int) -> One:
        return One(id=item)

    def two(item: int) -> Two:
        return Two(id=item, name="two")

    one.__annotations__.update(item=int, **{"return": One})
    two.__annotations__.update(item=int, **{"return": Two})
    app = _fast(make(), handlers(one, two))

    assert asgi_request(app, target="/items/3", headers={"x-user-id": "u"}).text == '{"id":3,"name":"two"}'
    assert asgi_request(app, target="/items/3").text == '{"id":3}'
    schema = app.openapi()["paths"]["/items/{item}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert [model["$ref"].rpartition("/")[2] for model in schema["anyOf"]] == ["One", "Two"]


@pytest.mark.parametrize("is_async", [False, True])
def test_parameters_and_dependencies_reach_both(is_async: bool) -> None:
    from fastapi import Depends, Query

    def limit(limit: int = 5) -> int:
        return limit

    def serve(name: str) -> Any:
        def view(item: int, q: str = "none", limit: int = 0) -> dict[str, Any]:
            return {"by": name, "item": item, "q": q, "limit": limit, "version": current().version}

        async def aview(item: int, q: str = "none", limit: int = 0) -> dict[str, Any]:
            return view(item, q, limit)

        chosen = aview if is_async else view
        chosen.__annotations__.update(
            {"item": int, "q": Annotated[str, Query(max_length=5)], "limit": Annotated[int, Depends(limit)]}
        )
        del chosen.__annotations__["return"]
        return chosen

    app = _fast(make(), handlers(serve("one"), serve("two")))

    answer = asgi_request(app, target="/items/3?q=abc&limit=9", headers={"x-user-id": "u"})
    assert '"by":"two","item":3,"q":"abc"' in answer.text
    assert '"version":"v2"' in answer.text
    assert asgi_request(app, target="/items/3?q=abcdef", headers={"x-user-id": "u"}).status == 422
    assert '"by":"one"' in asgi_request(app, target="/items/3").text


def _guest() -> str:
    return "guest"


def _admin() -> str:
    return "admin"


def test_a_dependency_that_only_one_handler_has_is_refused() -> None:
    from fastapi import Depends

    def by_default(user: str = Depends(_guest)) -> None: ...
    def same(user: str = Depends(_guest)) -> None: ...
    def stricter(user: str = Depends(_admin)) -> None: ...
    def annotated(user: str = "") -> None: ...

    annotated.__annotations__["user"] = Annotated[str, Depends(_admin)]

    assert callable(handlers(by_default, same))
    for canary in (stricter, annotated):
        with pytest.raises(ConfigError, match=r"by_default and .* have different dependencies"):
            handlers(by_default, canary)


def test_the_assignment_can_be_asked_for_as_a_dependency() -> None:
    from canary_middleware.fastapi import Assigned

    def one(item: int, served: Any) -> str:
        return f"{served.version} {served.role}"

    one.__annotations__.update(item=int, served=Assigned, **{"return": str})

    app = _fast(make(), one)

    assert asgi_request(app, target="/items/1", headers={"x-user-id": "u"}).text == '"v2 canary"'
