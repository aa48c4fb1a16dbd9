"""
Our instruments on a MeterProvider that somebody else set up.

What is counted anyway is observed when it is collected. Only the histograms are recorded one by one: the API has no
observable histogram.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from opentelemetry.metrics import CallbackOptions, Observation

from .._core.tallies import OTEL_BOUNDS_S, Series
from . import names
from .ledger import ledger
from .series import DB, DURATION, INSTRUMENTS, Admission, Instrument, db_attributes, duration_attributes, duration_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter, MeterProvider

    from .._core.exchange import Exchange
    from .series import DbKey


class Instruments:
    """All of ours on one meter. Made once per provider."""

    def __init__(self, meter: Meter) -> None:
        self._duration = _histogram(meter, DURATION)
        self._db = _histogram(meter, DB)
        self._duration_sets = Admission(DURATION.name)
        self._db_sets = Admission(DB.name)
        makers: dict[str, Any] = {  # Any: three signatures that differ in what they return
            "counter": meter.create_observable_counter,
            "updown": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for instrument in INSTRUMENTS:
            make = makers.get(instrument.kind)
            if make is not None:
                make(
                    instrument.name,
                    callbacks=[_observer(instrument)],
                    unit=instrument.unit,
                    description=instrument.description,
                )

    def record_request(self, exchange: Exchange, method: str, context: Context | None) -> None:
        """The duration of a request that has ended and was not aborted."""
        status = exchange.outcome_status
        series = Series(
            exchange.variant, method, status=status, route=exchange.route, error_type=exchange.outcome_error
        )
        key = duration_key(series)
        attributes = self._duration_sets.get(key)
        if attributes is None:
            attributes = self._duration_sets.admit(key, duration_attributes(series))
        self._duration.record(exchange.duration, attributes, context)

    def record_db(self, key: DbKey, seconds: float) -> None:
        """One database operation."""
        attributes = self._db_sets.get(key)
        if attributes is None:
            attributes = self._db_sets.admit(key, db_attributes(key))
        self._db.record(seconds, attributes)


def _histogram(meter: Meter, instrument: Instrument) -> Histogram:
    return meter.create_histogram(
        instrument.name,
        unit=instrument.unit,
        description=instrument.description,
        explicit_bucket_boundaries_advisory=list(instrument.bounds),
    )


def _observer(instrument: Instrument) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        book = ledger()
        for attributes, value in book.points(instrument, book.snapshots()).values():
            yield Observation(cast("float", value), attributes)

    return observe


_on: tuple[MeterProvider, Instruments] | None = None
_http: tuple[MeterProvider, Histogram] | None = None


def on(provider: MeterProvider | None, version: str) -> Instruments | None:
    """Our instruments on *provider*, made at the first call; None turns to our own pipeline, or to none at all."""
    global _on
    if provider is None:
        _on = None
    elif _on is None or _on[0] is not provider:
        _on = (provider, Instruments(provider.get_meter(names.SCOPE, version)))
    return current()


def current() -> Instruments | None:
    """Our instruments on the foreign provider in use; None where there is none."""
    return None if _on is None else _on[1]


def http_histogram(provider: MeterProvider, version: str) -> Histogram:
    """``http.server.request.duration``, for who asks for it; made once per provider."""
    global _http
    if _http is None or _http[0] is not provider:
        histogram = provider.get_meter(names.SCOPE, version).create_histogram(
            names.HTTP_REQUEST_DURATION,
            unit="s",
            description="Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=list(OTEL_BOUNDS_S),
        )
        _http = (provider, histogram)
    return _http[1]
