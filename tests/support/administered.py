"""
Real servers with the app that has an admin API and a command line: ``tests.e2e.apps.administered``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from . import servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from .servers import Server

APPS: Final = "tests.e2e.apps.administered"
TOKEN: Final = "a-token-of-some-length"

SERVERS: Final[dict[str, Callable[..., AbstractContextManager[Server]]]] = {
    "gunicorn": partial(servers.gunicorn, f"{APPS}:wsgi_app", workers=2),
    "gunicorn-preload": partial(servers.gunicorn, f"{APPS}:wsgi_app", workers=2, preload=True),
    "uvicorn": partial(servers.uvicorn, f"{APPS}:asgi_app", workers=2),
    "uvicorn-fastapi": partial(servers.uvicorn, f"{APPS}:fastapi_app", workers=2),
    "flask": partial(servers.flask_dev, f"{APPS}:flask_app"),
    "django": partial(servers.django_dev, f"{APPS}_django"),
}
"""Name → starts it; takes what ``servers.start`` takes, and the first four take a number of ``workers``."""
