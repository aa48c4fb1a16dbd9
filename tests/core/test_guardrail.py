"""Guardrails: what trips and what does not, what is said of it, and when stable's own trouble makes it wait."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware._core.evidence.guardrail import SHARED_HOLD_S, Guard, Trip, is_exception, is_unavailable
from canary_middleware._core.exchange import Exchange, Failure
from canary_middleware._core.lifecycle.rollout import Assignment, Reason, Variants
from canary_middleware._core.plan.schema import parse

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMITS: dict[str, Any] = {"error_rate": {"max": 0.05}, "p95": {"max": "2s"}, "availability": {"min": 0.99}}
VARIANTS = Variants()


class Ended(Exchange):
    """An ended exchange, without door or clock."""

    def __init__(self, version: str, status: int, error: str | None, reason: Reason, duration_s: float) -> None:
        super().__init__("GET")
        variant = VARIANTS.get("shop", version, "stable" if version == "v1" else "canary", reason)
        self.assignment = Assignment(variant, 1)
        self.variant = variant
        self.route = "/pay/{id}"
        self.status = status
        self.duration = duration_s
        self.has_ended = True
        if error is not None:
            self.error_type = error


def ended(
    version: str = "v2",
    status: int = 200,
    *,
    error: str | None = None,
    reason: Reason = "weight",
    duration_s: float = 0.1,
) -> Ended:
    return Ended(version, status, error, reason, duration_s)


def guard(guardrails: dict[str, Any] = LIMITS, **fields: Any) -> Guard:
    (plan,) = parse({"rollout": {"shop": {"guardrails": guardrails, **fields}}}).rollouts
    return Guard(plan, threading.RLock(), lambda exchange: f"trace-{exchange.status}")


def feed(watching: Guard, outcomes: Iterable[Exchange], start: float = 0.0, every: float = 0.1) -> list[Trip]:
    """All trips while *outcomes* end one after another."""
    found = [watching.observe(outcome, start + n * every) for n, outcome in enumerate(outcomes)]
    return [trip for trip in found if trip is not None]


BAD = {
    "error_rate": lambda: ended(status=500),
    "availability": lambda: ended(status=503),
    "p95": lambda: ended(duration_s=2.5),
}


@pytest.mark.parametrize("metric", BAD)
def test_three_of_three_trip_and_fewer_do_not(metric: str) -> None:
    for good in (0, 1, 2):
        few = guard({metric: LIMITS[metric]})
        assert feed(few, [BAD[metric](), BAD[metric](), *[ended()] * good]) == []

    (trip,) = feed(guard({metric: LIMITS[metric]}), [BAD[metric]()] * 3)
    assert (trip.action, trip.limit.metric, trip.version, trip.is_enforced) == ("rollback", metric, "v2", True)


@pytest.mark.parametrize("metric", BAD)
def test_two_of_three_do_nothing_in_any_order(metric: str) -> None:
    for place in range(3):
        outcomes = [BAD[metric](), BAD[metric]()]
        outcomes.insert(place, ended())
        if metric == "availability" and place < 2:
            # 2 of 3 are evidence enough against 99 %, but not three bad outcomes.
            assert feed(guard({metric: LIMITS[metric]}), outcomes) == []
        assert feed(guard({metric: LIMITS[metric]}), outcomes) == []


def test_a_canary_within_its_limits_is_left_alone() -> None:
    within = [ended(status=500 if n % 50 == 0 else 200, duration_s=3.0 if n % 40 == 1 else 0.1) for n in range(20_000)]

    assert feed(guard({"error_rate": {"max": 0.05}, "p95": {"max": "2s"}}), within) == []


def test_a_canary_that_breaks_after_a_long_good_time_is_caught_within_a_few_requests() -> None:
    watching = guard({"error_rate": {"max": 0.05}})
    feed(watching, [ended() for _ in range(10_000)])
    failing = [ended(status=500) for _ in range(20)]

    tripped = [n for n, outcome in enumerate(failing, 1) if watching.observe(outcome, 2000.0 + n) is not None]
    assert tripped == [8]


def test_after_a_rollback_was_asked_for_nothing_more_is_said() -> None:
    assert len(feed(guard(), [ended(status=500)] * 30)) == 1


def test_application_errors_are_no_unavailability() -> None:
    assert feed(guard({"availability": {"min": 0.99}}), [ended(status=500)] * 50) == []


@pytest.mark.parametrize(
    ("outcome", "unavailable", "exception"),
    [
        (ended(status=500), False, False),
        (ended(status=502), True, False),
        (ended(status=503), True, False),
        (ended(status=504), True, False),
        (ended(status=501), False, False),
        (ended(status=500, error="TimeoutError"), True, True),
        (ended(status=200, error="BrokenPipe"), True, True),
        (ended(status=404), False, False),
    ],
)
def test_unavailable_is_what_did_not_answer(outcome: Exchange, unavailable: bool, exception: bool) -> None:
    assert (is_unavailable(outcome), is_exception(outcome)) == (unavailable, exception)


def test_a_request_that_stable_answered_for_the_canary_is_the_canarys_failure() -> None:
    def fallen_back() -> Exchange:
        exchange = ended()
        exchange.failure = Failure(500, "ValueError")
        exchange.assignment = Assignment(VARIANTS.get("shop", "v1", "stable", "fallback"), 1)
        exchange.status = 200
        return exchange

    (trip,) = feed(guard({"error_rate": {"max": 0.05}}), [fallen_back() for _ in range(3)])

    assert [(o["status"], o["error"]) for o in trip.evidence["outcomes"]] == [(500, "ValueError")] * 3


def test_overrides_forced_versions_and_clients_that_left_count_for_nothing() -> None:
    def left() -> Exchange:
        exchange = ended(status=500)
        exchange.is_aborted = True
        return exchange

    watching = guard()
    nobody: list[Exchange] = [
        *(ended(status=500, reason=reason) for reason in ("override", "forced") for _ in range(50)),
        *(ended(reason="override") for _ in range(50)),
        *(left() for _ in range(50)),
    ]
    assert feed(watching, nobody) == []

    (trip,) = feed(watching, [ended(status=500)] * 3)
    assert trip.evidence["requests"] == 3


@pytest.mark.parametrize("reason", ["user", "segment", "weight"])
def test_users_on_a_list_or_in_a_segment_are_real_users(reason: Reason) -> None:
    assert len(feed(guard(), [ended(status=500, reason=reason)] * 3)) == 1


def test_what_stable_served_for_want_of_a_handler_says_nothing_of_the_canary() -> None:
    def unserved() -> Exchange:
        exchange = ended(status=500)
        exchange._decided = exchange.assignment
        exchange.assignment = Assignment(VARIANTS.get("shop", "v1", "stable", "error"), 1)
        return exchange

    assert feed(guard(), [unserved() for _ in range(20)]) == []


@pytest.mark.parametrize("odd", ["new_id", "release", "missed", "answered_at"])
def test_odd_but_good_outcomes_count_as_good(odd: str) -> None:
    def good() -> Exchange:
        exchange = ended()
        setattr(exchange, odd, None)
        return exchange

    watching = guard({"error_rate": {"max": 0.05}})
    outcomes = [ended(status=500), ended(status=500), *(good() for _ in range(20)), ended(status=500)]
    assert feed(watching, outcomes) == []
    assert watching._sides["v2"].draw() == 24


def test_each_canary_is_watched_by_itself() -> None:
    watching = guard(LIMITS, canary={"v2": 80, "v3": 20})
    outcomes = [ended("v3", 500) if n % 10 == 0 else ended("v2") for n in range(30)]

    (trip,) = feed(watching, outcomes)
    assert (trip.version, trip.evidence["requests"]) == ("v3", 3)


def test_stable_alone_never_trips() -> None:
    assert feed(guard(), [ended("v1", 503)] * 100) == []


@pytest.mark.parametrize("guardrails", [{"error_rate": {"max": 1.0}}, {"availability": {"min": 0.0}}])
def test_a_limit_that_allows_everything_watches_nothing(guardrails: dict[str, Any]) -> None:
    watching = guard(guardrails)

    assert not watching.is_watching
    assert feed(watching, [ended(status=503)] * 100) == []


@pytest.mark.parametrize(
    "guardrails",
    [{"error_rate": {"max_increase": 0.1}}, {"p95": {"max_ratio": 1.5}}, {"custom": {"cart": {"max": 5}}}, {}],
)
def test_comparisons_with_stable_are_not_made_in_one_process(guardrails: dict[str, Any]) -> None:
    assert not guard(guardrails).is_watching


def test_a_limit_of_zero_trips_at_three() -> None:
    watching = guard({"error_rate": {"max": 0.0}})

    assert feed(watching, [ended(), ended(status=500)] * 2) == []
    assert len(feed(watching, [ended(), ended(status=500)])) == 1


def test_min_requests_are_waited_for() -> None:
    watching = guard({"error_rate": {"max": 0.05}, "min_requests": 10})

    assert feed(watching, [ended(status=500)] * 9) == []
    assert len(feed(watching, [ended(status=500)])) == 1


# -- bursts ------------------------------------------------------------------------------------------------------------


def test_so_many_exceptions_within_so_long_trip_however_many_requests_there_are() -> None:
    watching = guard({"exceptions": {"count": 5, "within": "10s"}})
    feed(watching, [ended() for _ in range(10_000)])

    (trip,) = feed(watching, [ended(status=500, error="KeyError")] * 5, start=100.0, every=2.0)
    assert trip.reason == "5 requests to v2 raised an exception within 8 s: 5 within 10s trip"
    assert (trip.evidence["exceptions"], trip.evidence["within_s"]) == (5, 8.0)


def test_exceptions_further_apart_do_not_trip() -> None:
    watching = guard({"exceptions": {"count": 5, "within": "10s"}})

    assert feed(watching, [ended(status=500, error="KeyError")] * 50, every=2.6) == []


def test_statuses_are_no_exceptions() -> None:
    assert feed(guard({"exceptions": {"count": 2, "within": "10s"}}), [ended(status=503)] * 50) == []


def test_a_burst_is_reported_once_and_the_next_one_again() -> None:
    watching = guard({"exceptions": {"count": 3, "within": "1s", "action": "warn"}})
    burst = [ended(status=500, error="KeyError")] * 10

    assert len(feed(watching, burst)) == 1
    assert len(feed(watching, burst, start=60.0)) == 1


# -- actions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["pause", "warn"])
def test_pause_and_warn_are_asked_for_once_per_episode(action: str) -> None:
    watching = guard({"error_rate": {"max": 0.05, "action": action}})

    assert [trip.action for trip in feed(watching, [ended(status=500)] * 50)] == [action]
    assert feed(watching, [ended()] * 500) == []
    assert [trip.action for trip in feed(watching, [ended(status=500)] * 50)] == [action]


def test_the_gravest_action_comes_first_and_the_others_follow() -> None:
    limits = {
        "error_rate": {"max": 0.05, "action": "warn"},
        "availability": {"min": 0.99, "action": "pause"},
        "exceptions": {"count": 6, "within": "10s"},
    }

    trips = feed(guard(limits), [ended(status=500, error="KeyError")] * 10)
    assert [(trip.action, trip.limit.metric) for trip in trips] == [
        ("pause", "availability"),
        ("warn", "error_rate"),
        ("rollback", "exceptions"),
    ]


def test_a_dry_run_says_what_it_would_have_done_and_goes_on_watching() -> None:
    watching = guard(LIMITS, enforce=False)

    trips = feed(watching, [ended(status=500, error="KeyError")] * 10)
    assert [(trip.action, trip.limit.metric, trip.is_enforced) for trip in trips] == [
        ("rollback", "error_rate", False),
        ("rollback", "availability", False),
    ]


def test_a_guard_that_was_replaced_sees_nothing_more() -> None:
    watching = guard()
    feed(watching, [ended(status=500)] * 2)
    watching.is_over = True

    assert feed(watching, [ended(status=500)] * 10) == []


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_the_evidence_names_the_outcomes_and_fits_into_json() -> None:
    outcomes = [ended() for _ in range(7)] + [ended(status=500, error="KeyError") for _ in range(20)]
    (trip,) = feed(guard({"error_rate": {"max": 0.05}}), outcomes)

    assert json.loads(json.dumps(trip.evidence)) == trip.evidence
    bad = trip.evidence["bad"]
    assert trip.reason == f"{bad} of the last {bad} requests to v2 failed: more than the error_rate limit of 5 % allows"
    assert trip.evidence["requests"] == 7 + bad
    assert trip.evidence["guardrail"] == {"error_rate": {"max": 0.05}}
    assert trip.evidence["e_value"] >= trip.evidence["threshold"] == 1000
    assert trip.evidence["outcomes"][-1] == {
        "ago_s": 0.0,
        "endpoint": "GET /pay/{id}",
        "status": 500,
        "error": "KeyError",
        "duration_s": 0.1,
        "trace_id": "trace-500",
    }
    assert trip.evidence["outcomes"][0]["ago_s"] == pytest.approx(0.1 * (bad - 1))


def test_no_more_than_ten_outcomes_are_kept_and_paths_never() -> None:
    def mixed(n: int) -> Exchange:
        outcome = ended(status=500 if n % 6 == 0 else 200)
        outcome.route = None
        return outcome

    (trip,) = feed(guard({"error_rate": {"max": 0.05}}), [mixed(n) for n in range(2000)])
    assert len(trip.evidence["outcomes"]) == 10
    assert {o["endpoint"] for o in trip.evidence["outcomes"]} == {"GET"}
    assert trip.reason.startswith("10 of the last 55 requests")


@pytest.mark.parametrize(
    ("guardrails", "bad", "sentence"),
    [
        (
            {"availability": {"min": 0.99}},
            lambda: ended(status=503),
            "3 of the last 3 requests to v2 got no answer (502 to 504, exceptions): availability must be 99 % or more",
        ),
        (
            {"p95": {"max": "200ms"}},
            lambda: ended(duration_s=0.3),
            "3 of the last 3 requests to v2 took longer than 0.2s: the p95 limit allows that for 5 %",
        ),
        (
            {"p99": {"max": "2s"}},
            lambda: ended(duration_s=3.0),
            "3 of the last 3 requests to v2 took longer than 2s: the p99 limit allows that for 1 %",
        ),
    ],
)
def test_the_reason_is_one_sentence(guardrails: dict[str, Any], bad: Any, sentence: str) -> None:
    (trip,) = feed(guard(guardrails), [bad() for _ in range(3)])

    assert trip.reason == sentence


def test_half_of_the_requests_may_be_slower_than_the_p50_limit() -> None:
    limits = {"p50": {"max": "100ms"}}
    half = [ended(duration_s=0.2 if n % 2 else 0.05) for n in range(5_000)]

    assert feed(guard(limits), half) == []
    assert len(feed(guard(limits), [ended(duration_s=0.2)] * 30)) == 1


# -- shared incidents --------------------------------------------------------------------------------------------------


def incident(canary_share: float = 1.0, stable_share: float = 1.0, stable_per_canary: int = 9) -> list[Exchange]:
    """Ten rounds in which both fail: shares of 0, 0.5 or 1."""
    found: list[Exchange] = []
    for n in range(10):
        found += [ended("v1", 503 if (n + m) % 2 < 2 * stable_share else 200) for m in range(stable_per_canary)]
        found.append(ended("v2", 503 if n % 2 < 2 * canary_share else 200))
    return found


def test_where_stable_breaks_the_same_limit_at_the_same_time_the_canary_is_held_not_rolled_back() -> None:
    watching = guard({"error_rate": {"max": 0.05}})

    (trip,) = feed(watching, incident())
    assert trip.action == "hold"
    assert trip.reason.startswith("shared incident: v1 breaks the same limit now (3 of the last 3 requests to v2")


def test_an_incident_that_lasts_is_rolled_back_after_two_minutes() -> None:
    watching = guard({"error_rate": {"max": 0.05}})
    lasting = [(start, feed(watching, incident(), start=float(start))) for start in range(0, 300, 10)]

    actions = [(start, trip.action) for start, trips in lasting for trip in trips]
    assert actions == [(0, "hold"), (SHARED_HOLD_S, "rollback")]
    assert "held 12" in lasting[12][1][0].reason


def test_an_incident_that_ends_rolls_nothing_back() -> None:
    watching = guard({"error_rate": {"max": 0.05}})
    assert [trip.action for trip in feed(watching, incident())] == ["hold"]
    recovered = [ended(status=500 if n == 150 else 200) for n in range(300)]

    assert feed(watching, recovered, start=60.0) == []
    assert feed(watching, recovered, start=200.0) == []


def test_the_next_incident_is_held_anew() -> None:
    watching = guard({"error_rate": {"max": 0.05}})
    feed(watching, incident())
    feed(watching, [ended(version) for version in ("v1", "v2") for _ in range(500)], start=20.0)

    again = feed(watching, [*incident(), *incident()], start=1000.0)
    assert [trip.action for trip in again] == ["hold"]


def test_a_canary_much_worse_than_a_poor_stable_is_no_shared_incident() -> None:
    watching = guard({"error_rate": {"max": 0.05}})
    poor = [ended("v1", 500 if n % 8 == 0 else 200) for n in range(800)]
    assert feed(watching, poor) == []

    (trip,) = feed(watching, [ended(status=500)] * 3, start=80.0)
    assert trip.action == "rollback"


def test_an_outage_of_stable_that_is_over_excuses_nothing() -> None:
    watching = guard({"error_rate": {"max": 0.05}})
    feed(watching, [ended("v1", 503)] * 100)

    (trip,) = feed(watching, [ended(status=503)] * 3, start=100.0)
    assert trip.action == "rollback"


def test_another_limit_broken_by_stable_excuses_nothing() -> None:
    watching = guard()
    outcomes = [outcome for _ in range(10) for outcome in (ended("v1", duration_s=5.0), ended(status=500))]

    (trip,) = feed(watching, outcomes)
    assert trip.action == "rollback"


def test_exceptions_of_both_at_the_same_time_are_a_shared_incident_too() -> None:
    watching = guard({"exceptions": {"count": 3, "within": "10s"}})
    both = [ended(version, 500, error="OperationalError") for _ in range(5) for version in ("v1", "v2")]

    assert [trip.action for trip in feed(watching, both)] == ["hold"]


def test_a_pause_is_not_held_back_by_stables_trouble() -> None:
    watching = guard({"error_rate": {"max": 0.05, "action": "pause"}})

    assert [trip.action for trip in feed(watching, incident())] == ["pause"]


# -- threads -----------------------------------------------------------------------------------------------------------


def test_threads_neither_lose_an_outcome_nor_trip_twice() -> None:
    watching = guard({"error_rate": {"max": 0.05, "action": "warn"}})
    trips: list[Trip] = []
    ready = threading.Barrier(4)

    def serve(seed: int) -> None:
        ready.wait()
        for n in range(4_000):
            trip = watching.observe(ended(status=500 if (n + seed) % 3 == 0 else 200), n / 1000)
            if trip is not None:
                trips.append(trip)

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [trip.action for trip in trips] == ["warn"]
    assert watching._sides["v2"].draw() == 4 * 4_000 + 1
