"""Mounted by hand, beside the service rather than below it: no request of its own is assigned or counted."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from canary_middleware import wsgi
from canary_middleware.admin import Mount, create_app
from canary_middleware.errors import ConfigError
from canary_middleware.testing import recorded

from .conftest import TOKEN, ask, make


def shop(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"{}"]


def test_beside_a_service_it_is_not_counted() -> None:
    canary = make(weight=50)
    service = wsgi.CanaryMiddleware(shop, canary=canary)
    app = DispatcherMiddleware(service, {"/canary": create_app(canary, token=TOKEN)})

    with recorded(canary) as outcomes:
        assert ask(app, "GET", "/canary/status")[1]["rollout"] == "checkout"
        assert ask(app, "POST", "/canary/rollback")[1]["phase"] == "rolled_back"
        assert outcomes == []
        ask(app, "GET", "/canaries")

    assert len(outcomes) == 1


def test_below_a_service_it_asks_in_the_log_to_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    canary = make(weight=50)
    app = wsgi.CanaryMiddleware(create_app(canary, token=TOKEN), canary=canary)

    assert ask(app, "GET", "/status")[0] == 200
    assert "pass admin=… to the middleware instead of mounting it by hand" in caplog.text


@pytest.mark.parametrize("admin", [True, 5, "", "/", "admin"])
def test_what_is_no_path_is_refused_at_start(admin: Any) -> None:
    with pytest.raises(ConfigError, match="must be a path"):
        Mount(admin, make(), lambda _: None)
