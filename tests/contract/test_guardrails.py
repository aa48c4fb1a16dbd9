"""A canary that breaks its limits gets no further request of this process, behind every front door."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware.testing import FakeClock, recorded

from .behaviour import Behaviour, Call, Reply, echoes, raises, says
from .test_dispatch import USER, make

if TYPE_CHECKING:
    from canary_middleware import Canary

    from .clients import Request
    from .drivers import Driver

LIMITS = {"error_rate": {"max": 0.05}, "p95": {"max": "2s"}, "availability": {"min": 0.99}}


def guarded(weight: float = 100, guardrails: dict[str, Any] = LIMITS, **fields: Any) -> Canary:
    return make(weight=weight, guardrails=guardrails, **fields)


def failing(status: int) -> Behaviour:
    return lambda call: Reply(status=status, body=b"two")


def served_by(client: Request, requests: int) -> list[str]:
    """Which version's code each of that many users got."""
    return [client(headers={USER: f"user-{n}"}).header("X-Canary-Version") or "" for n in range(requests)]


@pytest.mark.parametrize("broken", [raises, failing(500), failing(503)], ids=["raises", "500", "503"])
def test_after_the_third_failure_the_next_request_gets_stable(driver: Driver, broken: Behaviour) -> None:
    canary = guarded(fallback="never")
    calls = count()

    def counted(call: Call) -> Reply:
        next(calls)
        return broken(call)

    with driver.serve(canary, {"v1": says("one"), "v2": counted}) as client:
        statuses = [client(headers={USER: f"user-{n}"}).status for n in range(10)]

    assert next(calls) == 3
    assert [status < 500 for status in statuses] == [False] * 3 + [True] * 7
    rollout = canary.rollout()
    assert (rollout.phase, rollout.weight_ppm) == ("rolled_back", 0)
    assert rollout.phase_reason.startswith("3 of the last 3 requests to v2 failed")


def test_failures_that_stable_answered_count_and_nobody_sees_one(driver: Driver) -> None:
    canary = guarded()

    with driver.serve(canary, {"v1": says("one"), "v2": raises}) as client, recorded(canary) as ended:
        answers = [client(headers={USER: f"user-{n}"}) for n in range(10)]

    assert [(answer.status, answer.text) for answer in answers] == [(200, "one")] * 10
    assert [outcome.fell_back for outcome in ended] == [True] * 3 + [False] * 7


def test_at_ten_percent_the_canarys_own_outcomes_decide(driver: Driver) -> None:
    canary = guarded(weight=10)

    with driver.serve(canary, {"v1": says("one"), "v2": raises}) as client, recorded(canary) as ended:
        for n in range(200):
            client(headers={USER: f"user-{n}"})

    assert [outcome.assignment.version for outcome in ended].count("v2") == 3
    assert {outcome.assignment.reason for outcome in ended[-50:]} == {"rolled_back"}


def test_a_slow_canary_is_stopped(driver: Driver) -> None:
    clock = FakeClock()
    canary = guarded(clock=clock)

    def slow(call: Call) -> Reply:
        clock.advance(2.5)
        return Reply(body=b"two")

    with driver.serve(canary, {"v1": says("one"), "v2": slow}) as client:
        versions = served_by(client, 5)

    assert versions == ["v2"] * 3 + ["v1"] * 2
    assert "took longer than 2s" in canary.rollout().phase_reason


def test_a_healthy_canary_goes_on(driver: Driver) -> None:
    canary = guarded()

    with driver.serve(canary, {"v1": says("one"), "v2": says("two", 404)}) as client:
        assert served_by(client, 100) == ["v2"] * 100


def test_a_dry_run_changes_nothing_and_says_so_once(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    canary = guarded(guardrails={"error_rate": {"max": 0.05}}, enforce=False, fallback="never")
    before = canary.rollout()

    with driver.serve(canary, {"v1": says("one"), "v2": failing(503)}) as client:
        assert served_by(client, 20) == ["v2"] * 20

    assert canary.rollout() == before
    said = [record.getMessage() for record in caplog.records if "guardrail" in record.getMessage()]
    assert len(said) == 1
    assert "dry run, would rollback: 3 of the last 3 requests to v2 failed" in said[0]


def test_after_a_retry_it_works_anew(driver: Driver) -> None:
    canary = guarded(weight=0, stages=[100])
    canary.start()

    with driver.serve(canary, {"v1": says("one"), "v2": raises}) as client, recorded(canary) as ended:
        served_by(client, 5)
        canary.retry()
        served_by(client, 5)

    assert [outcome.assignment.version for outcome in ended] == (["v2"] * 3 + ["v1"] * 2) * 2
    assert canary.rollout().phase == "rolled_back"


def test_a_change_of_weight_keeps_what_was_seen(driver: Driver) -> None:
    canary = guarded()

    with driver.serve(canary, {"v1": says("one"), "v2": raises}) as client, recorded(canary) as ended:
        served_by(client, 2)
        canary.set_weight(99.9999)
        served_by(client, 3)

    assert [outcome.assignment.version for outcome in ended] == ["v2"] * 3 + ["v1"] * 2


def test_a_pause_stops_the_plan_and_not_the_canary(driver: Driver) -> None:
    canary = guarded(
        weight=0, stages=[100], guardrails={"error_rate": {"max": 0.05, "action": "pause"}}, fallback="never"
    )
    canary.start()

    with driver.serve(canary, {"v1": says("one"), "v2": failing(500)}) as client:
        assert served_by(client, 10) == ["v2"] * 10

    rollout = canary.rollout()
    assert (rollout.phase, rollout.weight_ppm) == ("paused", 1_000_000)
    assert rollout.phase_reason.startswith("3 of the last 3")


def test_where_both_versions_fail_the_canary_is_held_at_its_first_stage(driver: Driver) -> None:
    canary = guarded(weight=0, stages=[50, 100], guardrails={"availability": {"min": 0.99}})
    canary.start()

    with driver.serve(canary, {"v1": failing(503), "v2": failing(503)}) as client:
        served_by(client, 60)

    rollout = canary.rollout()
    assert (rollout.phase, rollout.weight_ppm) == ("holding", 500_000)
    assert rollout.phase_reason.startswith("shared incident: v1 breaks the same limit now")


def test_a_retired_stable_is_nothing_to_go_back_to(driver: Driver) -> None:
    canary = guarded(weight=0, environ={"USE_LEGACY_API_V1": "false"})

    with driver.serve(canary, {"v1": says("one"), "v2": failing(503)}) as client:
        assert served_by(client, 10) == ["v2"] * 10

    assert canary.rollout().phase == "idle"


def test_without_guardrails_in_the_plan_nothing_is_stopped(driver: Driver) -> None:
    with driver.serve(make(weight=100), {"v1": echoes("one"), "v2": raises}) as client:
        answers = [client(headers={USER: "u"}).status for _ in range(20)]

    assert set(answers) == {200}
