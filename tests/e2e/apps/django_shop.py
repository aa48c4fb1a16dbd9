"""A Django project in one file: its settings, its URLs and a view per version."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.urls import path

from canary_middleware import handlers

from .shop import Broken, canary, counts

SECRET_KEY = "not a secret"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
MIDDLEWARE = ["canary_middleware.django.CanaryMiddleware"]
CANARY = canary


def says(text: str) -> Any:
    def view(request: Any) -> HttpResponse:
        return HttpResponse(text)

    return view


def fails(request: Any) -> HttpResponse:
    raise Broken


urlpatterns = [
    path("who", handlers(says("v1"), says("v2"))),
    path("fail", handlers(says("v1"), fails)),
    path("counts", lambda request: HttpResponse(counts())),
]
