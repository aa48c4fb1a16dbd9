"""
What OpenTelemetry's standard environment variables ask for, checked. Read once, when telemetry is configured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T", bound=str)
Signal = Literal["traces", "metrics", "logs"]
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
Protocol = Literal["http/protobuf", "grpc"]
Temporality = Literal["cumulative", "delta", "lowmemory"]

_PROTOCOLS: Final[tuple[Protocol, ...]] = get_args(Protocol)
_TEMPORALITIES: Final[tuple[Temporality, ...]] = get_args(Temporality)
_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """How many items wait for export, how many go at once, and how often (seconds)."""

    capacity: int
    size: int
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What to export and how.

    Attributes:
        protocols: the signals to export; empty where nothing asks for telemetry.
        uncompressed: the signals whose compression is ``none`` in so many words.
        interval_s: seconds between two exports of metrics.
    """

    protocols: Mapping[Signal, Protocol]
    uncompressed: frozenset[Signal]
    temporality: Temporality
    interval_s: float
    spans: Queue
    logs: Queue


def read_settings(environ: Mapping[str, str]) -> Settings:
    """
    Raises:
        ConfigError: a variable has a value that OpenTelemetry does not define, or that this package does not speak.
    """
    protocols: dict[Signal, Protocol] = {}
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true":
        protocols = {signal: _protocol(environ, signal) for signal in SIGNALS if _is_wanted(environ, signal)}
    if protocols:
        _check_sampler(environ)
    return Settings(
        protocols=protocols,
        uncompressed=frozenset(signal for signal in protocols if _compression(environ, signal) == "none"),
        temporality=_one_of(environ, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative", _TEMPORALITIES),
        interval_s=_milliseconds(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000,
        spans=_queue(environ, "OTEL_BSP", 5000),
        logs=_queue(environ, "OTEL_BLRP", 1000),
    )


def _is_wanted(environ: Mapping[str, str], signal: Signal) -> bool:
    name = f"OTEL_{signal.upper()}_EXPORTER"
    exporter = environ.get(name, "").strip().lower()
    if exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        raise ConfigError(
            f"{name} is {exporter!r}: configure_telemetry() speaks otlp, or none; for another exporter set up the "
            "OpenTelemetry SDK yourself before calling it"
        )
    specific = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    found = next((key for key in (specific, "OTEL_EXPORTER_OTLP_ENDPOINT") if environ.get(key, "").strip()), None)
    if found is not None:
        _check_endpoint(found, environ[found].strip(), _protocol(environ, signal))
    return found is not None or exporter == "otlp"


def _check_endpoint(name: str, endpoint: str, protocol: Protocol) -> None:
    if protocol == "grpc" and "://" not in endpoint:
        return  # host:port, as gRPC writes it
    try:
        parts = urlsplit(endpoint)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigError(f"{name} is {endpoint!r}: must be a URL such as http://localhost:4318")


def _protocol(environ: Mapping[str, str], signal: Signal) -> Protocol:
    specific = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    name = specific if environ.get(specific, "").strip() else "OTEL_EXPORTER_OTLP_PROTOCOL"
    return _one_of(environ, name, "http/protobuf", _PROTOCOLS)


def _compression(environ: Mapping[str, str], signal: Signal) -> str:
    specific = f"OTEL_EXPORTER_OTLP_{signal.upper()}_COMPRESSION"
    name = specific if environ.get(specific, "").strip() else "OTEL_EXPORTER_OTLP_COMPRESSION"
    return _one_of(environ, name, "", ("none", "gzip", "deflate", ""))


def _one_of(environ: Mapping[str, str], name: str, default: T, allowed: tuple[T, ...]) -> T:
    given = environ.get(name, "").strip().lower() or default
    for value in allowed:
        if value == given:
            return value
    raise ConfigError(f"{name} is {environ[name]!r}: must be one of {', '.join(filter(None, allowed))}")


def _check_sampler(environ: Mapping[str, str]) -> None:
    # The SDK only logs a wrong value, and then records everything.
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if (
        sampler
        and sampler not in _SAMPLERS
        and not any(sampler == entry.name for entry in entry_points(group="opentelemetry_traces_sampler"))
    ):
        raise ConfigError(f"OTEL_TRACES_SAMPLER is {sampler!r}: must be one of {', '.join(_SAMPLERS)}")
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if not sampler.endswith("traceidratio") or not argument:
        return
    if not 0 <= _number("OTEL_TRACES_SAMPLER_ARG", argument, "a share of 0 … 1") <= 1:
        raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG is {argument!r}: must be a share of 0 … 1")


def _queue(environ: Mapping[str, str], prefix: str, delay_ms: float) -> Queue:
    capacity = _count(environ, f"{prefix}_MAX_QUEUE_SIZE", 2048)
    size = _count(environ, f"{prefix}_MAX_EXPORT_BATCH_SIZE", min(512, capacity))
    if size > capacity:
        raise ConfigError(
            f"{prefix}_MAX_EXPORT_BATCH_SIZE is {size}: must not be above {prefix}_MAX_QUEUE_SIZE ({capacity})"
        )
    return Queue(
        capacity=capacity, size=size, delay_s=_milliseconds(environ, f"{prefix}_SCHEDULE_DELAY", delay_ms) / 1000
    )


def _count(environ: Mapping[str, str], name: str, default: int) -> int:
    given = environ.get(name, "").strip()
    if not given:
        return default
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"{name} is {given!r}: must be a whole number from 1 on")
    return int(given)


def _milliseconds(environ: Mapping[str, str], name: str, default: float) -> float:
    given = environ.get(name, "").strip()
    if not given:
        return default
    value = _number(name, given, "a number of milliseconds above 0")
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {given!r}: must be a number of milliseconds above 0")
    return value


def _number(name: str, given: str, wanted: str) -> float:
    try:
        return float(given)
    except ValueError:
        raise ConfigError(f"{name} is {given!r}: must be {wanted}") from None
