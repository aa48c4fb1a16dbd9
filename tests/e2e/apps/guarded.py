"""
Two versions under guardrails, or under the plan in PLAN (JSON), behind every front door but Django's. The store is
what CANARY_STORE names.

v2 raises from the moment that the file BREAK exists. The file JOURNAL has a line for every request that ends: whether
it was v2's, when it was assigned and when it had ended (``time.monotonic``, one clock for all processes), the process,
and the rollout's phase behind it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi
import flask
from fastapi.responses import PlainTextResponse

from canary_middleware import Canary, asgi, by_header, handlers, wsgi
from canary_middleware.flask import init_app

if TYPE_CHECKING:
    from canary_middleware._core.exchange import Exchange

if "METRICS_PORT" in os.environ:
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import start_http_server

    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    start_http_server(int(os.environ["METRICS_PORT"]), "127.0.0.1")

_GUARDED = {"guardrails": {"error_rate": {"max": 0.05}, "p95": {"max": "2s"}, "availability": {"min": 0.99}}}
_PLAN = json.loads(os.environ["PLAN"]) if "PLAN" in os.environ else _GUARDED
canary = Canary("shop", clock=time.monotonic, key=[by_header("x-user-id")], **_PLAN)
_BREAK = Path(os.environ["BREAK"])
# One write each, appended: lines of several processes do not mix.
_JOURNAL = os.open(os.environ["JOURNAL"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)


class Broken(RuntimeError):
    """What v2 raises."""


def note(exchange: Exchange) -> None:
    """Called when the guard has seen it."""
    version = exchange.variant.version if exchange.failure is None else "failed"
    phase = canary.rollout().phase
    line = f"{version} {exchange.started:.6f} {time.monotonic():.6f} {os.getpid()} {phase}\n"
    os.write(_JOURNAL, line.encode())


canary.observe(note)


def v1() -> str:
    return "v1"


def v2() -> str:
    if _BREAK.exists():
        raise Broken
    return "v2"


def _wsgi(serve: Any) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = serve().encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    return app


def _asgi(serve: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        body = serve().encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def async_v1() -> str:
    return v1()


async def async_v2() -> str:
    return v2()


wsgi_app = wsgi.CanaryMiddleware(wsgi.apps(_wsgi(v1), _wsgi(v2)), canary=canary)
asgi_app = asgi.CanaryMiddleware(asgi.apps(_asgi(v1), _asgi(v2)), canary=canary)

flask_app = flask.Flask(__name__)
flask_app.add_url_rule("/", "shop", handlers(v1, v2))
init_app(flask_app, canary)

fastapi_app = fastapi.FastAPI()
fastapi_app.add_api_route("/", handlers(async_v1, async_v2), response_class=PlainTextResponse)
fastapi_app.add_middleware(asgi.CanaryMiddleware, canary=canary)
