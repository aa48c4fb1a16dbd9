"""Starlette answers 500 and raises on: the failure is named by the exception."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from canary_middleware import Canary, by_header, current
from canary_middleware.asgi import CanaryMiddleware
from canary_middleware.testing import recorded
from tests.contract.clients import asgi_request

if TYPE_CHECKING:
    import pytest


async def view(request: Any) -> PlainTextResponse:
    if current().version == "v2":
        raise KeyError("the real bug")
    return PlainTextResponse("one")


def test_a_canary_wrapped_whole_is_reported_by_its_exception(caplog: pytest.LogCaptureFixture) -> None:
    canary = Canary("api", weight=100, key=[by_header("u")], environ={})
    app = CanaryMiddleware(Starlette(routes=[Route("/", view)]), canary=canary)

    with caplog.at_level(logging.ERROR, "canary_middleware"), recorded(canary) as ended:
        answer = asgi_request(app, headers={"u": "x"})

    assert (answer.status, answer.text) == (200, "one")
    assert [(o.error_type, o.fell_back) for o in ended] == [("KeyError", True)]
    assert "the real bug" in caplog.text
