"""The Django endpoints, bare and under a canary. Beside ``frameworks``, because Django wants a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpRequest, JsonResponse
from django.urls import path

from canary_middleware import handlers

from . import frameworks

if TYPE_CHECKING:
    from django.urls import URLPattern


def show(request: HttpRequest, number: int) -> JsonResponse:
    """The stable version, and the bare one."""
    return JsonResponse(frameworks.item(number))


def show_v2(request: HttpRequest, number: int) -> JsonResponse:
    """The canary."""
    return JsonResponse(frameworks.item(number))


def index(request: HttpRequest, shop: int) -> JsonResponse:
    """The stable version, and the bare one."""
    return JsonResponse(frameworks.page(shop, request.GET.get("page", "1")))


def index_v2(request: HttpRequest, shop: int) -> JsonResponse:
    """The canary."""
    return JsonResponse(frameworks.page(shop, request.GET.get("page", "1")))


urlpatterns: list[URLPattern] = [
    path("bare/items/<int:number>", show),
    path("bare/shops/<int:shop>/items", index),
    path("items/<int:number>", handlers(show, show_v2)),
    path("shops/<int:shop>/items", handlers(index, index_v2)),
]
