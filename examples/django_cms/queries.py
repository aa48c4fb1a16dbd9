"""
Tells the telemetry of every query, so that it shows what each version asks of the database.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.db import connection

from canary_middleware.telemetry import record_db

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse


class QueryMiddleware:
    """Behind CanaryMiddleware in the settings: what runs before a version is chosen is not that version's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with connection.execute_wrapper(_timed):
            return self.get_response(request)


def _timed(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    started = time.perf_counter()
    error_type = None
    try:
        return execute(sql, params, many, context)
    except Exception as error:
        error_type = type(error).__name__
        raise
    finally:
        record_db(time.perf_counter() - started, connection.vendor, sql.split(None, 1)[0].upper(), error_type)
