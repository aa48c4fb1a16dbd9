"""What stays behind when every request comes from a new user and asks for a new path."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

from canary_middleware import asgi, wsgi
from canary_middleware.telemetry import configure_telemetry

from . import traffic
from .apps import asgi_app, wsgi_app
from .canaries import canary
from .measure import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effort import Effort

_AT_ONCE = 500


def asgi_live(effort: Effort) -> Timings:
    """Bytes per request through the ASGI door, with everything that the environment asks for."""
    configure_telemetry(log_handler=False)
    app = asgi.CanaryMiddleware(asgi_app, canary=canary())
    with asyncio.Runner() as runner:
        return _grown(lambda some: runner.run(traffic.serve_asgi(app, [traffic.scope(*one) for one in some])), effort)


def wsgi_live(effort: Effort) -> Timings:
    """The same through the WSGI door."""
    configure_telemetry(log_handler=False)
    app = wsgi.CanaryMiddleware(wsgi_app, canary=canary())
    return _grown(lambda some: traffic.serve_wsgi(app, [traffic.environ(*one) for one in some]), effort)


def _grown(serve: Callable[[list[tuple[str, str]]], Any], effort: Effort) -> Timings:
    first, last = effort.requests
    tracemalloc.start()
    try:
        _send(serve, 0, first)
        before = _live()
        _send(serve, first, last)
        after = _live()
    finally:
        tracemalloc.stop()
    return Timings(unit="bytes", ours=[(after - before) / (last - first)])


def _send(serve: Callable[[list[tuple[str, str]]], Any], begin: int, end: int) -> None:
    for start in range(begin, end, _AT_ONCE):
        serve([(f"user-{n}", f"/items/{n}") for n in range(start, min(end, start + _AT_ONCE))])


def _live() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
