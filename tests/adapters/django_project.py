"""A Django project of one table for tests: SQLite in a file, because both colours must see the same rows."""

from __future__ import annotations

import tempfile
import types
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canary_middleware import Canary, by_header
from tests.contract.clients import asgi_request, wsgi_request
from tests.contract.drivers import configure_django

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OURS = "canary_middleware.django.CanaryMiddleware"
USER = {"x-user-id": "u"}


def make(**fields: Any) -> Canary:
    """Everyone with an id on the canary."""
    return Canary("checkout", **{"weight": 100, "key": [by_header("x-user-id")], "environ": {}, **fields})


def urlconf(patterns: Sequence[Any], **handlers: Any) -> types.ModuleType:
    """A URLconf module."""
    module = types.ModuleType("project_urls")
    module.__dict__.update(urlpatterns=list(patterns), **handlers)
    return module


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@contextmanager
def database(*, atomic: bool = False) -> Iterator[None]:
    """Django's tables and ``hit (name)``, empty; with *atomic*, one transaction per request."""
    configure_django()
    from django.core.management import call_command
    from django.db import connections

    settings = connections.settings["default"]
    before = dict(settings)
    connections["default"].close()
    path = Path(_folder().name) / "project.sqlite3"
    path.unlink(missing_ok=True)
    settings.update(NAME=str(path), ATOMIC_REQUESTS=atomic)
    del connections["default"]
    try:
        call_command("migrate", run_syncdb=True, verbosity=0)
        with connections["default"].cursor() as cursor:
            cursor.execute("CREATE TABLE hit (name TEXT)")
        yield
    finally:
        connections["default"].close()
        settings.clear()
        settings.update(before)
        del connections["default"]


def hit(name: str) -> None:
    """Write a row."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO hit VALUES (%s)", [name])


def hits() -> list[str]:
    """The rows that were committed."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM hit ORDER BY rowid")
        return [row[0] for row in cursor.fetchall()]


@contextmanager
def project(
    canary: Canary, urls: Any, *, middleware: Sequence[str] = (OURS,), is_async: bool = False, **settings: Any
) -> Iterator[Callable[..., Any]]:
    """A client of the project, through Django's WSGI or ASGI handler."""
    configure_django()
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    with override_settings(CANARY=canary, ROOT_URLCONF=urls, MIDDLEWARE=list(middleware), **settings):
        app: Any = ASGIHandler() if is_async else WSGIHandler()
        request = asgi_request if is_async else wsgi_request
        yield lambda *args, **kwargs: request(app, *args, **kwargs)
