"""Flask as it is used: routes by their templates, under agents that wrap everything, and inside instrumentations."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import flask
import pytest
import wrapt

from canary_middleware import handlers
from canary_middleware.flask import init_app
from canary_middleware.testing import recorded

from .traces import make

USER = {"X-USER-ID": "u1"}


def shop(**fields: Any) -> tuple[flask.Flask, Any]:
    app = flask.Flask("shop")
    canary = make(**fields)
    init_app(app, canary)
    app.add_url_rule("/items/<int:iid>", "item", lambda iid: f"item {iid}")
    app.add_url_rule("/stream/<int:iid>", "stream", lambda iid: iter(["a", "b"]))
    return app, canary


@pytest.mark.parametrize("weight", [0, 100])
@pytest.mark.parametrize("name", ["items", "stream"])
def test_a_route_is_known_by_its_template(weight: int, name: str) -> None:
    app, canary = shop(weight=weight)

    with recorded(canary) as outcomes:
        assert app.test_client().get(f"/{name}/7", headers=USER).data

    assert outcomes[0].route == f"/{name}/<int:iid>"


class Hiding(wrapt.ObjectProxy):
    """As ddtrace's wrapper of bodies: its type has a length, the object denies it."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__len__":
            raise AttributeError(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("weight", [0, 100])
@pytest.mark.parametrize("proxy", [Hiding, wrapt.ObjectProxy])
def test_an_agents_proxies_around_body_and_start_response_are_taken_for_what_they_hold(proxy: Any, weight: int) -> None:
    app, _ = shop(weight=weight)
    middleware: Any = app.wsgi_app
    inner = middleware.app
    middleware.app = lambda environ, start: proxy(inner(environ, wrapt.CallableObjectProxy(start)))

    answer = app.test_client().get("/items/7", headers=USER)

    assert (answer.status_code, answer.text) == (200, "item 7")


def test_without_flask_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['flask'] = None; import canary_middleware.flask"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "pip install canary-middleware[flask]" in found.stderr.splitlines()[-1]


def test_a_failed_canarys_request_leaves_no_route_of_its_own() -> None:
    app = flask.Flask("two")
    canary = make(weight=100)
    init_app(app, canary)

    def broken(iid: int) -> str:
        raise ValueError(iid)

    app.add_url_rule("/items/<int:iid>", "item", handlers(lambda iid: f"stable {iid}", broken))
    app.logger.disabled = True

    with recorded(canary) as outcomes:
        assert app.test_client().get("/items/3", headers=USER).text == "stable 3"

    assert outcomes[0].fell_back
    assert outcomes[0].route == "/items/<int:iid>"
