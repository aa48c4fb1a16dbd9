"""
One small app in both colours, for real servers: it logs once and opens one span of its own per request.

``WARM_UP`` in the environment is how many requests the module serves to itself while it is imported: before the fork,
where a server loads the app first.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from canary_middleware import Canary, by_header, current, telemetry
from canary_middleware.asgi import CanaryMiddleware as AsgiCanary
from canary_middleware.wsgi import CanaryMiddleware as WsgiCanary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

telemetry.configure_telemetry()
canary = Canary("checkout", endpoints=["GET /cart/{item}"], weight=50, key=[by_header("x-user-id")])
logger = logging.getLogger("shop")
tracer = trace.get_tracer("shop")
# Another library's counter: it must come out as exact as ours.
served = metrics.get_meter("shop").create_counter("shop.served")


def answer(path: str) -> bytes:
    with tracer.start_as_current_span("work"):
        logger.warning("served %s", path)
        served.add(1)
    if path.endswith("boom"):
        raise ValueError(path)
    return current().version.encode()


def _wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]


async def _asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = answer(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


wsgi = WsgiCanary(_wsgi, canary=canary)
asgi = AsgiCanary(_asgi, canary=canary)


async def _nowhere(message: object) -> None: ...


async def _empty() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _warm_up(times: int) -> None:
    for number in range(times):
        headers = [(b"x-user-id", f"early-{number}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/cart/early", "query_string": b"", "headers": headers}
        await asgi({**scope, "http_version": "1.1", "scheme": "http", "client": None, "server": None}, _empty, _nowhere)


if os.environ.get("WARM_UP"):
    asyncio.run(_warm_up(int(os.environ["WARM_UP"])))
