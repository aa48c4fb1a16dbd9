"""On a MeterProvider that somebody else set up, the same instruments say the same."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from canary_middleware import telemetry
from canary_middleware._core.tallies import OTEL_BOUNDS_S
from canary_middleware.telemetry import names
from canary_middleware.telemetry.series import INSTRUMENTS, MAX_SETS, Admission
from tests.telemetry.drive import middleware, plain, request


class Metrics:
    """What a provider of the app's own has collected."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        metrics.set_meter_provider(self.provider)

    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        found: dict[str, list[Any]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found.setdefault(metric.name, []).extend(metric.data.data_points)
        return found


@pytest.fixture
def meters() -> Metrics:
    return Metrics()


def value(points: list[Any]) -> Any:
    """The value of a metric that has one point."""
    (point,) = points
    return point.value


def test_all_instruments_are_there_with_their_names_and_units(meters: Metrics) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        telemetry.record_db(0.02, "sqlite", "SELECT")
        telemetry.record_cache("miss")
        await plain(scope, receive, send)

    canary = middleware(app, weight=0)
    for _ in range(3):
        request(canary)
    request(canary, "/500")

    points = meters.points()
    absent = {names.ABORTED_REQUESTS, names.FALLBACKS, names.FALLBACKS_MISSED, names.INTERNAL_ERRORS}
    assert points.keys() == {instrument.name for instrument in INSTRUMENTS} - absent
    counts = {dict(point.attributes)[names.HTTP_STATUS]: point.count for point in points[names.REQUEST_DURATION]}
    assert counts == {200: 3, 500: 1}
    failed = next(p for p in points[names.REQUEST_DURATION] if dict(p.attributes)[names.HTTP_STATUS] == 500)
    assert dict(failed.attributes)[names.ERROR_TYPE] == "500"
    assert tuple(failed.explicit_bounds) == OTEL_BOUNDS_S
    assert value(points[names.ASSIGNMENTS]) == 4
    assert value(points[names.CACHE_OPERATIONS]) == 4
    assert points[names.DB_OPERATION_DURATION][0].count == 4
    assert tuple(points[names.DB_OPERATION_DURATION][0].explicit_bounds) == names.DB_BOUNDS_S


def test_instruments_are_made_once_for_any_number_of_canaries(
    meters: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    apps = [middleware(name=f"rollout-{number}") for number in range(5)]
    for app in apps:
        request(app)
        telemetry.recorder(app.canary)

    points = meters.points()
    assert sum(point.value for point in points[names.ASSIGNMENTS]) == 5
    assert sum(point.count for point in points[names.REQUEST_DURATION]) == 5
    assert [one for one in caplog.records if "already" in one.getMessage()] == []


def test_a_dropped_canary_is_let_go(meters: Metrics) -> None:
    app = middleware()
    request(app)
    gone = weakref.ref(app.canary)
    del app
    gc.collect()

    assert gone() is None
    assert value(meters.points()[names.ASSIGNMENTS]) == 1
    assert names.ROLLOUT_WEIGHT not in meters.points()


def test_the_standard_metric_is_left_out_unless_asked_for(meters: Metrics) -> None:
    request(middleware())
    assert names.HTTP_REQUEST_DURATION not in meters.points()

    request(middleware(telemetry={"http_metrics": "always"}))
    (point,) = meters.points()[names.HTTP_REQUEST_DURATION]
    assert point.count == 1
    assert dict(point.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "https",
        "http.response.status_code": 200,
    }


def test_the_standard_metric_is_not_counted_double_where_the_app_has_its_own(meters: Metrics) -> None:
    from canary_middleware.asgi import CanaryMiddleware
    from tests.telemetry.drive import canary

    app = CanaryMiddleware(OpenTelemetryMiddleware(plain), canary=canary(telemetry={"http_metrics": "auto"}))
    request(app)

    ours = [
        scope
        for resource in meters.reader.get_metrics_data().resource_metrics  # type: ignore[union-attr]
        for scope in resource.scope_metrics
        if scope.scope.name == names.SCOPE
    ]
    assert names.HTTP_REQUEST_DURATION not in {metric.name for scope in ours for metric in scope.metrics}


def test_admission_keeps_what_it_admitted_and_folds_the_rest() -> None:
    admission = Admission("x")
    sets = [admission.admit(number, {"n": number}) for number in range(MAX_SETS + 500)]

    assert sets[MAX_SETS - 2] == {"n": MAX_SETS - 2}
    assert sets[MAX_SETS - 1] == {names.OVERFLOW: True}
    assert admission.get(3) == {"n": 3}
    assert admission.get(MAX_SETS + 1) is None
