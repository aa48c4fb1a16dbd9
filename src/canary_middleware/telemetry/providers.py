"""
Which of OpenTelemetry's global providers somebody has set up.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final, TypeVar

from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider

P = TypeVar("P")

# The API has no public question for this: until a provider is set it hands out these placeholders.
_PLACEHOLDERS: Final = frozenset({"ProxyTracerProvider", "_ProxyMeterProvider", "ProxyLoggerProvider"})


def configured(provider: P) -> P | None:
    """*provider*, or None where it is only the API's placeholder or does nothing."""
    name = type(provider).__name__
    if name in _PLACEHOLDERS or name == "NoOpLoggerProvider":
        return None
    if isinstance(provider, (trace.NoOpTracerProvider, NoOpMeterProvider)):
        return None
    if getattr(provider, "_disabled", False) is True:  # the SDK under OTEL_SDK_DISABLED
        return None
    return provider


@cache
def package_version() -> str:
    """The version of this package; empty where it is run without being installed."""
    try:
        return version("canary-middleware")
    except PackageNotFoundError:
        return ""
