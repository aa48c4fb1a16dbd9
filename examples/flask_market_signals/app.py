"""
The application.

    gunicorn --workers 2 examples.flask_market_signals.app:app
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from flask import Flask, session

from canary_middleware import Canary, current, handlers
from canary_middleware.flask import init_app
from canary_middleware.telemetry import configure_telemetry

from . import legacy, signals

if TYPE_CHECKING:
    from types import ModuleType

ENGINES: Final[dict[str, ModuleType]] = {"legacy": legacy, "signals": signals}

canary: Final = Canary.load(Path(__file__).with_name("canary.toml"))

# Sends nothing unless OTEL_EXPORTER_OTLP_ENDPOINT or its like is set.
configure_telemetry()

app = Flask(__name__)
app.secret_key = os.environ.get("MARKET_SIGNALS_SECRET_KEY", "for development only")
init_app(app, canary)


@app.post("/api/sessions")
def open_session() -> dict[str, str]:
    """Begin a session: its id, in a signed cookie, decides the versions until it ends."""
    session["id"] = uuid4().hex
    return {"session_id": session["id"]}


def _anomalies(engine: ModuleType, symbol: str) -> dict[str, Any]:
    return {"symbol": symbol, "engine": current().version, "days": engine.anomalies(symbol)}


def _limit_up(engine: ModuleType, symbol: str) -> dict[str, Any]:
    return {"symbol": symbol, "engine": current().version, "probability": round(engine.limit_up(symbol), 4)}


def legacy_anomalies(symbol: str) -> dict[str, Any]:
    return _anomalies(legacy, symbol)


def new_anomalies(symbol: str) -> dict[str, Any]:
    return _anomalies(signals, symbol)


def legacy_limit_up(symbol: str) -> dict[str, Any]:
    return _limit_up(legacy, symbol)


def new_limit_up(symbol: str) -> dict[str, Any]:
    return _limit_up(signals, symbol)


app.get("/api/signals/<symbol>/anomalies")(handlers(legacy_anomalies, new_anomalies))
app.get("/api/signals/<symbol>/limit-up")(handlers(legacy_limit_up, new_limit_up))


@app.get("/api/signals/<symbol>")
def overview(symbol: str) -> dict[str, Any]:
    """Both features in one answer, so no single version serves it: each is asked for by name."""
    return {
        "symbol": symbol,
        "anomaly_detection": _by_name("anomaly_detection", "anomalies", symbol),
        "limit_up_prediction": _by_name("limit_up_prediction", "limit_up", symbol),
    }


def _by_name(feature: str, question: str, symbol: str) -> dict[str, Any]:
    version = canary.version_for(session.get("id"), rollout=feature)
    try:
        return {"engine": version, "answer": getattr(ENGINES[version], question)(symbol)}
    except ArithmeticError:
        app.logger.exception("%s failed for %s; the legacy engine answers", feature, symbol)
        return {"engine": "legacy", "answer": getattr(legacy, question)(symbol)}


@app.get("/health")
def health() -> tuple[dict[str, str], int]:
    """Both engines answer a question whose answer is known, whoever is assigned to which."""
    states = {name: _health(engine) for name, engine in ENGINES.items()}
    return states, 200 if set(states.values()) == {"healthy"} else 503


def _health(engine: ModuleType) -> str:
    try:
        is_sane = 0.0 <= engine.limit_up("HEALTH") <= 1.0 and bool(engine.anomalies("HEALTH"))
    except Exception as error:
        app.logger.exception("health check of %s", engine.__name__)
        return f"failing: {type(error).__name__}"
    return "healthy" if is_sane else "failing: implausible answer"
