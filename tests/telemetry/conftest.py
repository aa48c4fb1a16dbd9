"""
Telemetry is global to a process; these fixtures give each test a process that has none yet.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.util._once import Once

from canary_middleware import telemetry
from canary_middleware.telemetry import foreign, ledger, pipeline
from canary_middleware.telemetry.logs import OtlpHandler
from tests.support.otlp import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No provider is set, nothing is counted, no variable asks for telemetry; afterwards no thread of ours is left."""
    for name in [name for name in __import__("os").environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    # The API lets a provider be set once per process and has no way back.
    inner_metrics: Any = metrics._internal
    inner_logs: Any = _logs._internal
    for module, stem in ((trace, "_TRACER"), (inner_metrics, "_METER"), (inner_logs, "_LOGGER")):
        monkeypatch.setattr(module, f"{stem}_PROVIDER", None)
        monkeypatch.setattr(module, f"{stem}_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(inner_metrics, "_PROXY_METER_PROVIDER", inner_metrics._ProxyMeterProvider())
    monkeypatch.setattr(pipeline, "_pipeline", None)
    monkeypatch.setattr(pipeline, "_stamped", [])
    monkeypatch.setattr(pipeline, "_waited_s", 0.0)
    monkeypatch.setattr(foreign, "_on", None)
    monkeypatch.setattr(foreign, "_http", None)
    monkeypatch.setattr(ledger, "_ledger", ledger.Ledger())
    yield
    telemetry.shutdown(0.1)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, OtlpHandler)]:
        root.removeHandler(handler)


@pytest.fixture(params=["http/protobuf", "grpc"])
def otlp(request: pytest.FixtureRequest) -> Iterator[OtlpReceiver]:
    """A collector over HTTP, and one over gRPC."""
    with OtlpReceiver(request.param) as receiver:
        yield receiver


@pytest.fixture
def point_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Points the environment of this process to a receiver; nothing is exported unless a test flushes."""

    def point(receiver: OtlpReceiver, **options: Any) -> None:
        for name, value in receiver.env(**{"interval_ms": 600_000, **options}).items():
            monkeypatch.setenv(name, value)

    return point
