"""The admin API for Django's own staff: who may look, who may steer, and whose page may ask."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import RequestFactory, override_settings

from canary_middleware import Canary
from canary_middleware.django import admin_view
from tests.contract.drivers import configure_django

configure_django()

HERE = {"HTTP_HOST": "testserver", "HTTP_ORIGIN": "http://testserver", "HTTP_SEC_FETCH_SITE": "same-origin"}


@dataclass(kw_only=True)
class User:
    """What ``request.user`` is asked, without a database."""

    username: str = "ann"
    is_authenticated: bool = True
    is_active: bool = True
    is_staff: bool = False
    is_superuser: bool = False
    permissions: tuple[str, ...] = ()

    def get_username(self) -> str:
        return self.username

    def has_perm(self, permission: str) -> bool:
        return permission in self.permissions


def ask(user: Any, method: str = "get", path: str = "status", body: Any = None, **headers: str) -> tuple[int, Any]:
    canary = Canary("checkout", stages=[10], environ={})
    factory = RequestFactory()
    if method == "post":
        request = factory.post("/", json.dumps(body or {}), content_type="application/json", **headers)
    else:
        request = factory.get("/", **headers)
    request.user = user
    response = admin_view(request, path, canary=canary)
    return response.status_code, json.loads(response.content)


@pytest.mark.parametrize(
    "user",
    [User(is_authenticated=False, is_staff=True), User(), User(is_staff=True, is_active=False), None],
    ids=["anonymous", "not staff", "left the company", "no authentication middleware"],
)
def test_who_is_no_staff_does_not_come_in(user: Any) -> None:
    assert ask(user)[0] == 401


def test_staff_may_look_and_superusers_may_steer() -> None:
    staff, boss = User(username="ann", is_staff=True), User(username="bob", is_staff=True, is_superuser=True)

    assert ask(staff)[0] == 200
    status, problem = ask(staff, "post", "emergency", **HERE)
    assert (status, problem["detail"]) == (403, "ann may look, and not change anything")
    assert ask(boss, "post", "emergency", **HERE)[0] == 200


@override_settings(CANARY_ADMIN_PERMISSION="shop.steer")
def test_a_permission_lets_staff_steer() -> None:
    assert ask(User(is_staff=True, permissions=("shop.steer",)), "post", "emergency", **HERE)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"HTTP_ORIGIN": "https://evil.example"}, {"HTTP_SEC_FETCH_SITE": "cross-site"}, {"HTTP_ORIGIN": "null"}],
)
def test_the_page_of_another_site_cannot_use_their_session(headers: dict[str, str]) -> None:
    boss = User(username="bob", is_staff=True, is_superuser=True)

    assert ask(boss, "post", "emergency", **headers)[0] == 403
