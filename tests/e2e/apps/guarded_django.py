"""The versions of ``guarded`` behind Django, in both colours."""

from __future__ import annotations

from typing import Any

from django.conf import settings

settings.configure(
    SECRET_KEY="guarded",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["canary_middleware.django.CanaryMiddleware"],
    CANARY="tests.e2e.apps.guarded.canary",
)

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from canary_middleware import handlers  # noqa: E402

from .guarded import v1, v2  # noqa: E402


def stable(request: Any) -> HttpResponse:
    return HttpResponse(v1())


def canary(request: Any) -> HttpResponse:
    return HttpResponse(v2())


async def async_stable(request: Any) -> HttpResponse:
    return HttpResponse(v1())


async def async_canary(request: Any) -> HttpResponse:
    return HttpResponse(v2())


urlpatterns = [path("", handlers(stable, canary)), path("async", handlers(async_stable, async_canary))]
wsgi_app = get_wsgi_application()
asgi_app = get_asgi_application()
