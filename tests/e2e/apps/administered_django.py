"""A Django project in one file with the admin API: for bearer tokens, and for its staff."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.urls import path

from canary_middleware import Canary, by_header, handlers
from canary_middleware.django import admin_view

SECRET_KEY = "not a secret"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
MIDDLEWARE = ["canary_middleware.django.CanaryMiddleware"]
STAGES = [10, {"weight": 50, "approve": True}, 100]
CANARY = Canary("checkout", key=[by_header("x-user-id")], stages=STAGES, bake="1h", exclude=["/by-hand/*"])
CANARY_ADMIN = "/admin/canary"


def says(text: str) -> Any:
    def view(request: Any) -> HttpResponse:
        return HttpResponse(text)

    return view


urlpatterns = [path("", handlers(says("v1"), says("v2"))), path("by-hand/<path:path>", admin_view)]
