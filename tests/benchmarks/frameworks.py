"""
A small JSON endpoint of each framework, bare and with two versions of it under a canary.

Metrics are on where the environment asks for them; the bare app never has any of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from canary_middleware import handlers
from canary_middleware.telemetry import configure_telemetry, flush

from . import traffic
from .canaries import canary
from .measure import Timings, compare

if TYPE_CHECKING:
    from .effort import Effort


def _item(number: int, version: str) -> dict[str, object]:
    return {"id": number, "name": "Anna", "tags": ["new", "sale"], "price": {"amount": 1999, "currency": "EUR"}}


def flask(effort: Effort) -> Timings:
    """Flask, through its WSGI callable."""
    configure_telemetry(log_handler=False)
    return compare(traffic.wsgi(_flask(bare=False)), traffic.wsgi(_flask(bare=True)), effort, settle=flush)


def _flask(*, bare: bool) -> Any:
    from flask import Flask

    from canary_middleware.flask import init_app

    app = Flask(__name__)

    def show(number: int) -> dict[str, object]:
        return _item(number, "v1")

    def show_v2(number: int) -> dict[str, object]:
        return _item(number, "v2")

    app.get("/items/<int:number>")(show if bare else handlers(show, show_v2))
    if not bare:
        init_app(app, canary())
    return app


def starlette(effort: Effort) -> Timings:
    """Starlette, through its ASGI callable."""
    configure_telemetry(log_handler=False)
    return compare(traffic.asgi(_starlette(bare=False)), traffic.asgi(_starlette(bare=True)), effort, settle=flush)


def _starlette(*, bare: bool) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from canary_middleware.asgi import CanaryMiddleware

    async def show(request: Any) -> Any:
        return JSONResponse(_item(request.path_params["number"], "v1"))

    async def show_v2(request: Any) -> Any:
        return JSONResponse(_item(request.path_params["number"], "v2"))

    app = Starlette(routes=[Route("/items/{number:int}", show if bare else handlers(show, show_v2))])
    if not bare:
        app.add_middleware(CanaryMiddleware, canary=canary())
    return app


_DJANGO_MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]


def django(effort: Effort) -> Timings:
    """Django, through its WSGI callable, with the two middlewares that every API has."""
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
    return compare(traffic.wsgi(ours), traffic.wsgi(bare, "/bare/42"), effort, settle=flush)
