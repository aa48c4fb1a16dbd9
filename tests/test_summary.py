"""Both sides of a rollout and how they compare, as the metrics endpoint says it."""

from __future__ import annotations

import pytest

from canary_middleware._core import tallies
from canary_middleware._core.lifecycle.rollout import Variant
from canary_middleware._core.plan.schema import RolloutPlan, parse
from canary_middleware._core.tallies import Cell, Series
from canary_middleware._views.summary import by_endpoint, summarise

PLAN = parse({"rollout": {"checkout": {}}}).rollouts[0]
V1 = Variant("checkout", "v1", "stable", "weight")
V2 = Variant("checkout", "v2", "canary", "weight")
OTHER = Variant("search", "v1", "stable", "weight")


def cell(total_s: float, **buckets: int) -> Cell:
    made = Cell()
    made.total_s = total_s
    made.buckets = {int(index[1:]): n for index, n in buckets.items()}
    return made


@pytest.fixture
def _round_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets whose middles are the figures of the document below, where ours would be off by a percent."""
    monkeypatch.setattr(tallies, "BOUNDS_S", (0.2, 0.42, 0.42, 0.45, 0.45, 0.55, 0.55, 0.6, 0.6))


@pytest.mark.usefixtures("_round_buckets")
def test_the_document_of_the_metrics_endpoint_is_reproduced() -> None:
    series = {
        Series(V1, "GET", 200, "/a"): cell(2_374.0, b0=8_999, b4=400, b8=96),
        Series(V1, "GET", 500, "/a", "500"): cell(1.0, b0=1, b8=4),
        Series(V2, "GET", 200, "/a"): cell(114.5, b0=470, b2=20, b6=9),
        Series(V2, "GET", 500, "/a", "ValueError"): cell(0.5, b6=1),
        Series(OTHER, "GET", 200, "/a"): cell(99.0, b0=99),
    }

    assert summarise(series, PLAN, 60.0, raw=False) == {
        "legacy": {
            "version": "legacy",
            "request_count": 9500,
            "error_count": 5,
            "error_rate": "0.05%",
            "avg_response_time_ms": "250.00",
            "p95_response_time_ms": "450.00",
            "p99_response_time_ms": "600.00",
        },
        "canary": {
            "version": "canary",
            "request_count": 500,
            "error_count": 1,
            "error_rate": "0.20%",
            "avg_response_time_ms": "230.00",
            "p95_response_time_ms": "420.00",
            "p99_response_time_ms": "550.00",
        },
        "comparison": {
            "error_rate_difference": "+0.15%",
            "response_time_improvement": "+8.00%",
            "canary_p95_response_time": "420.00ms",
            "legacy_p95_response_time": "450.00ms",
            "traffic_split": {
                "legacy_requests": 9500,
                "canary_requests": 500,
                "legacy_percentage": "95.0%",
                "canary_percentage": "5.0%",
            },
        },
    }


@pytest.mark.usefixtures("_round_buckets")
def test_the_raw_figures_have_the_same_names_and_plain_numbers() -> None:
    series = {
        Series(V1, "GET", 200, "/a"): cell(2.0, b0=10),
        Series(V2, "GET", 200, "/a"): cell(3.0, b4=6),
        Series(V2, "GET", 500, "/a", "500"): cell(1.0, b4=1),
        Series(V2, "GET", 503, "/a", "503"): cell(1.0, b4=1),
        Series(V2, "GET", 500, "/a", "ValueError"): cell(1.0, b4=2),
        Series(V2, "GET", 0, "/a", None, True): cell(50.0, b8=3),
    }

    found = summarise(series, PLAN, 20.0)

    assert found["canary"] == {
        "version": "canary",
        "request_count": 10,
        "error_count": 4,
        "error_rate": 0.4,
        "avg_response_time_ms": pytest.approx(600),
        "p50_response_time_ms": pytest.approx(450),
        "p95_response_time_ms": pytest.approx(450),
        "p99_response_time_ms": pytest.approx(450),
        # An answer of 500 that the app chose is an error, but no outage; an exception and a 503 are both.
        "availability": pytest.approx(0.7),
        "throughput_rps": 0.5,
        "aborted_count": 3,
    }
    assert found["versions"] == {
        "v1": {**found["legacy"], "version": "v1"},
        "v2": {**found["canary"], "version": "v2"},
    }
    text = summarise(series, PLAN, 20.0, raw=False)
    assert set(text["canary"]) < set(found["canary"])
    assert set(text["comparison"]) == set(found["comparison"])
    assert found["comparison"]["error_rate_difference"] == 0.4
    assert found["comparison"]["response_time_improvement"] == pytest.approx(-2.0)
    assert found["comparison"]["traffic_split"]["canary_percentage"] == 0.5


def test_without_traffic_all_figures_are_zero_and_nothing_is_down() -> None:
    found = summarise({}, PLAN, 0.0)

    assert found["legacy"]["availability"] == 1.0
    for side in ("legacy", "canary"):
        figures = {key: value for key, value in found[side].items() if key not in ("version", "availability")}
        assert set(figures.values()) == {0}
    text = summarise({}, PLAN, 0.0, raw=False)
    assert text["comparison"]["error_rate_difference"] == "+0.00%"
    assert text["comparison"]["response_time_improvement"] == "+0.00%"
    assert text["comparison"]["traffic_split"]["canary_percentage"] == "0.0%"


def test_without_canary_requests_nothing_is_called_an_improvement() -> None:
    only_stable = {Series(V1, "GET", 200, "/a"): cell(2.0, b0=10)}

    assert summarise(only_stable, PLAN, 1.0)["comparison"]["response_time_improvement"] == 0.0


def test_several_canaries_are_one_side_and_stand_by_their_names_too() -> None:
    plan: RolloutPlan = parse({"rollout": {"checkout": {"canary": {"v2": 80, "v3": 20}}}}).rollouts[0]
    v3 = Variant("checkout", "v3", "canary", "weight")
    retired = Variant("checkout", "v0", "canary", "weight")
    series = {
        Series(V1, "GET", 200, "/a"): cell(1.0, b0=5),
        Series(V2, "GET", 200, "/a"): cell(1.0, b0=4),
        Series(v3, "GET", 200, "/a"): cell(1.0, b0=1),
        Series(retired, "GET", 200, "/a"): cell(1.0, b0=2),
    }

    found = summarise(series, plan, 1.0)

    assert found["canary"]["request_count"] == 7
    assert {name: side["request_count"] for name, side in found["versions"].items()} == {
        "v1": 5,
        "v2": 4,
        "v3": 1,
        "v0": 2,
    }


def test_endpoints_are_told_apart_and_those_without_a_route_stand_together() -> None:
    series = {
        Series(V1, "GET", 200, "/b"): cell(1.0, b0=1),
        Series(V2, "POST", 200, "/b"): cell(1.0, b0=2),
        Series(V2, "GET", 200, "/a"): cell(1.0, b0=3),
        Series(V1, "GET", 404, None): cell(1.0, b0=4),
        Series(OTHER, "GET", 200, "/c"): cell(1.0, b0=5),
    }

    found = by_endpoint(series, PLAN, 1.0)

    assert list(found) == ["", "/a", "/b"]
    assert [found["/b"][side]["request_count"] for side in ("legacy", "canary")] == [1, 2]
    assert found[""]["legacy"]["request_count"] == 4
    assert by_endpoint(series, PLAN, 1.0, raw=False)["/a"]["canary"]["error_rate"] == "0.00%"
