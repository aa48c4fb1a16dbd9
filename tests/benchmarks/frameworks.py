"""
Two JSON endpoints of each framework, bare and with two versions of them under a canary.

A page of ten items (1.3 kB, one path and one query parameter) is what an API answers at least; a single tiny object
shows what remains where the endpoint does next to nothing. Metrics are on where the environment asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from canary_middleware import handlers
from canary_middleware.telemetry import configure_telemetry, flush

from . import traffic
from .canaries import canary
from .measure import Timings, compare

if TYPE_CHECKING:
    from .effort import Effort

PAGE: Final = "/shops/7/items"
TINY: Final = "/items/42"


def item(number: int) -> dict[str, object]:
    """One item, as a database row would become it."""
    return {
        "id": number,
        "name": f"Item {number}",
        "tags": ["new", "sale"],
        "price": {"amount": 1999 + number, "currency": "EUR"},
        "in_stock": number % 3 != 0,
    }


def page(shop: int, number: str) -> dict[str, object]:
    """Ten items of one shop."""
    first = int(number) * 10
    return {"shop": shop, "page": int(number), "items": [item(first + n) for n in range(10)]}


def flask(effort: Effort) -> Timings:
    """Flask, through its WSGI callable."""
    return _flask_at(PAGE, effort)


def flask_tiny(effort: Effort) -> Timings:
    """Flask, the tiny object."""
    return _flask_at(TINY, effort)


def _flask_at(path: str, effort: Effort) -> Timings:
    configure_telemetry(log_handler=False)
    ours, bare = (traffic.wsgi(_flask(bare=is_bare), path) for is_bare in (False, True))
    return compare(ours, bare, effort, settle=flush)


def _flask(*, bare: bool) -> Any:
    from flask import Flask, request

    from canary_middleware.flask import init_app

    app = Flask(__name__)

    def show(number: int) -> dict[str, object]:
        return item(number)

    def show_v2(number: int) -> dict[str, object]:
        return item(number)

    def index(shop: int) -> dict[str, object]:
        return page(shop, request.args.get("page", "1"))

    def index_v2(shop: int) -> dict[str, object]:
        return page(shop, request.args.get("page", "1"))

    app.get("/items/<int:number>")(show if bare else handlers(show, show_v2))
    app.get("/shops/<int:shop>/items")(index if bare else handlers(index, index_v2))
    if not bare:
        init_app(app, canary())
    return app


def starlette(effort: Effort) -> Timings:
    """Starlette, through its ASGI callable."""
    return _starlette_at(PAGE, effort)


def starlette_tiny(effort: Effort) -> Timings:
    """Starlette, the tiny object."""
    return _starlette_at(TINY, effort)


def _starlette_at(path: str, effort: Effort) -> Timings:
    configure_telemetry(log_handler=False)
    ours, bare = (traffic.asgi(_starlette(bare=is_bare), path) for is_bare in (False, True))
    return compare(ours, bare, effort, settle=flush)


def _starlette(*, bare: bool) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from canary_middleware.asgi import CanaryMiddleware

    async def show(request: Any) -> Any:
        return JSONResponse(item(request.path_params["number"]))

    async def show_v2(request: Any) -> Any:
        return JSONResponse(item(request.path_params["number"]))

    async def index(request: Any) -> Any:
        return JSONResponse(page(request.path_params["shop"], request.query_params.get("page", "1")))

    async def index_v2(request: Any) -> Any:
        return JSONResponse(page(request.path_params["shop"], request.query_params.get("page", "1")))

    app = Starlette(
        routes=[
            Route("/items/{number:int}", show if bare else handlers(show, show_v2)),
            Route("/shops/{shop:int}/items", index if bare else handlers(index, index_v2)),
        ]
    )
    if not bare:
        app.add_middleware(CanaryMiddleware, canary=canary())
    return app


_DJANGO_MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]


def django(effort: Effort) -> Timings:
    """Django, through its WSGI callable, with the two middlewares that every API has."""
    return _django_at(PAGE, effort)


def django_tiny(effort: Effort) -> Timings:
    """Django, the tiny object."""
    return _django_at(TINY, effort)


def _django_at(path: str, effort: Effort) -> Timings:
    configure_telemetry(log_handler=False)
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        CANARY=canary(),
        MIDDLEWARE=_DJANGO_MIDDLEWARE,
        ROOT_URLCONF=f"{__package__}.django_urls",
        SECRET_KEY="not-a-secret",
        USE_TZ=True,
    )
    django.setup()
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    bare = WSGIHandler()
    # A handler reads MIDDLEWARE when it is made.
    with override_settings(MIDDLEWARE=["canary_middleware.django.CanaryMiddleware", *_DJANGO_MIDDLEWARE]):
        ours = WSGIHandler()
    return compare(traffic.wsgi(ours, path), traffic.wsgi(bare, "/bare" + path), effort, settle=flush)
