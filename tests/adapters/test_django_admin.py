"""The admin API for Django's own staff: who may look, who may steer, and whose page may ask."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connections
from django.test import RequestFactory, override_settings

from canary_middleware import Canary
from canary_middleware.admin import Access, Admin, AdminAPI, Principal
from canary_middleware.django import _administered, admin_view
from tests.contract.drivers import configure_django

from .django_project import database, hits, make, project, urlconf

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
    factory: Any = RequestFactory()
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


def test_an_authenticator_that_asks_the_database_leaves_no_connection_behind() -> None:
    asked: list[Any] = []

    def authenticate(request: Any) -> Principal:
        hits()
        asked.append(connections["default"])
        assert asked[-1].connection is not None
        return Principal("ann")

    admin = Admin("/admin/canary", authenticator=authenticate)
    with database(), project(make(), urlconf([]), is_async=True, CANARY_ADMIN=admin) as send:
        answer = send(target="/admin/canary/status")

    assert answer.status == 200
    assert [connection.connection for connection in asked] == [None], "a thread of the pool would keep it for ever"


def test_a_client_that_leaves_while_its_order_is_read_changes_nothing() -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("the client has left")

    canary = make()
    request: Any = RequestFactory().post("/", b"{}", content_type="application/json")
    request._stream = Cut()
    request.META["HTTP_AUTHORIZATION"] = "Bearer a-token-of-some-length"
    api = AdminAPI(canary, Access("a-token-of-some-length", environ={}))

    response = _administered(api, request, "/rollback")

    assert (response.status_code, canary.rollout().revision) == (400, 0)
