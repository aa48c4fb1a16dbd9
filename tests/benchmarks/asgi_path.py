"""The whole way through our ASGI door, without telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canary_middleware.asgi import CanaryMiddleware

from .apps import PassThrough, asgi_app
from .canaries import canary
from .measure import Timings, compare
from .traffic import asgi

if TYPE_CHECKING:
    from .effort import Effort


def whole(effort: Effort) -> Timings:
    """One request through ``CanaryMiddleware``, and through the least that a timing middleware can be."""
    return compare(asgi(CanaryMiddleware(asgi_app, canary=canary())), asgi(PassThrough(asgi_app)), effort)


def guarded(effort: Effort) -> Timings:
    """One request through ``CanaryMiddleware`` with guardrails in its plan, and with none."""
    watched = canary({"error_rate": {"max": 0.05}, "p95": {"max": "2s"}, "availability": {"min": 0.99}})
    return compare(
        asgi(CanaryMiddleware(asgi_app, canary=watched)), asgi(CanaryMiddleware(asgi_app, canary=canary())), effort
    )
