"""
The application: seven endpoints, two handlers each, one middleware.

    uvicorn examples.fastapi_recommendations.app:app
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fastapi import FastAPI

from canary_middleware import Canary, handlers
from canary_middleware.asgi import CanaryMiddleware
from canary_middleware.telemetry import configure_telemetry

from . import v1, v2

canary: Final = Canary.load(os.environ.get("RECOMMENDER_PLAN") or Path(__file__).with_name("canary.toml"))

# Sends nothing unless OTEL_EXPORTER_OTLP_ENDPOINT or its like is set.
configure_telemetry()

app = FastAPI(title="Recommendations")
app.add_middleware(CanaryMiddleware, canary=canary)

_RECOMMEND: Final = "/api/v2/recommend"
_CONVERSATIONS: Final = "/api/v2/conversations"
_CONVERSATION: Final = "/api/v2/conversations/{session_id}"

app.post(f"{_RECOMMEND}/personalized")(handlers(v1.personalized, v2.personalized))
app.post(f"{_RECOMMEND}/compare")(handlers(v1.compare, v2.compare))
app.post(f"{_CONVERSATIONS}/start", status_code=201)(handlers(v1.start, v2.start))
app.post(f"{_CONVERSATION}/turn")(handlers(v1.turn, v2.turn))
app.post(f"{_CONVERSATION}/close")(handlers(v1.close, v2.close))
app.get(_CONVERSATION)(handlers(v1.read, v2.read))
app.get(_CONVERSATIONS)(handlers(v1.overview, v2.overview))


@app.get("/health")
async def health() -> dict[str, str]:
    """Outside the plan: never assigned, never counted."""
    return {"status": "ok"}
