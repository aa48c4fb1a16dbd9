"""The Django endpoint, bare and under a canary. Beside ``frameworks``, because Django wants a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpRequest, JsonResponse
from django.urls import path

from canary_middleware import handlers

from .frameworks import _item

if TYPE_CHECKING:
    from django.urls import URLPattern


def show(request: HttpRequest, number: int) -> JsonResponse:
    """The stable version, and the bare one."""
    return JsonResponse(_item(number, "v1"))


def show_v2(request: HttpRequest, number: int) -> JsonResponse:
    """The canary."""
    return JsonResponse(_item(number, "v2"))


urlpatterns: list[URLPattern] = [
    path("bare/<int:number>", show),
    path("items/<int:number>", handlers(show, show_v2)),
]
