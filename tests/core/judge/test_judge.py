"""What the judge says of a canary, and in which words; that it may be looked at always, and taken over anywhere."""

from __future__ import annotations

import json
import random
from math import isfinite
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary_middleware._core.evidence import Group, Judge, Side, Tick, settings_of
from canary_middleware._core.evidence.judge import SHARED_HOLD_S
from canary_middleware._core.evidence.past import Past
from canary_middleware._core.evidence.safety import Margin, Safety, cut_above, growth, margins_of
from canary_middleware._core.plan.schema import RolloutPlan, parse

if TYPE_CHECKING:
    from canary_middleware._core.lifecycle.progress import Finding

SHAPE = (100, 110, 120, 130, 140, 150, 160, 170, 180, 190)
"""Ten buckets, evenly: each tick of ten requests has one in each."""


def plan(**fields: Any) -> RolloutPlan:
    return parse({"rollout": {"shop": {"stages": [10, 50], **fields}}}).rollouts[0]


def judge(**fields: Any) -> Judge:
    return Judge(settings_of(plan(**fields), "v2"))


def side(requests: int, failures: int = 0, *, slower: int = 0, unavailable: int = 0, identities: int = 0) -> Side:
    durations: dict[int, int] = {}
    for n in range(requests):
        bucket = SHAPE[n % len(SHAPE)] + slower
        durations[bucket] = durations.get(bucket, 0) + 1
    return Side(requests, failures, unavailable, durations, {}, identities)


def feed(found: Judge, stable: Side, canary: Side, ticks: int, *, weight: int = 100_000, begin: float = 0.0) -> float:
    at = begin if found.at_s is None else found.at_s + 1
    for n in range(ticks):
        found.observe(Tick(at + n, weight, stable, canary))
    return at + ticks


# -- harm ------------------------------------------------------------------------------------------------------------


def test_a_canary_that_fails_half_its_requests_is_condemned_within_two_ticks() -> None:
    found = judge()
    feed(found, side(90), side(10, 5), 2)
    finding = found.finding()

    assert found.is_condemned
    assert (finding.verdict, finding.action) == ("fail", "rollback")
    assert finding.reason.startswith("v2 fails more often than v1: 10 of 20 requests (50.00%) against 0 of 180")
    assert "by luck" in finding.reason


def test_nobody_is_condemned_on_two_failures() -> None:
    found = judge()
    feed(found, side(1000), side(2, 2), 1)

    assert found.rollback_evidence > 0
    assert not found.is_condemned


def test_a_slower_canary_is_condemned_and_the_quantile_named() -> None:
    found = judge()
    feed(found, side(90), side(10, slower=40), 20)
    finding = found.finding()

    assert finding.verdict == "fail"
    assert finding.reason.startswith("v2 is slower than v1: p")
    assert " ms against " in finding.reason


def test_the_first_requests_of_a_cold_canary_are_not_held_against_it() -> None:
    found = judge()
    feed(found, side(900), side(3), 1)
    feed(found, side(900), side(25, slower=60), 1)

    assert found.comparison.latency == 1.0


def test_what_befalls_both_versions_is_no_reason() -> None:
    found = judge()
    feed(found, side(90), side(10), 60)
    feed(found, side(90, 45, slower=50), side(10, 5, slower=50), 30)

    assert not found.is_condemned


def test_unlikely_luck_is_told_as_such() -> None:
    found = judge()
    feed(found, side(90), side(10, 10), 20)

    assert found.finding().reason.endswith("by luck less than once in a million")


def test_the_same_failures_of_one_user_weigh_less_than_those_of_many() -> None:
    def grouped(failures: dict[int, int], n: int) -> Side:
        groups = {g: Group(n // 64 + failures.get(g, 0), failures.get(g, 0), 9000) for g in range(64)}
        requests = sum(group.requests for group in groups.values())
        return side(requests, sum(failures.values()))._replace(groups=groups)

    one, many = judge(), judge()
    for n in range(10):
        one.observe(Tick(float(n), 100_000, grouped({}, 640), grouped({7: 2}, 64)))
        many.observe(Tick(float(n), 100_000, grouped({}, 640), grouped({n: 1, n + 20: 1}, 64)))

    assert one.phis[0] > 5
    assert many.phis[0] < 1.5
    assert one.comparison.errors.evidence < many.comparison.errors.evidence / 100


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guardrail", "canary", "sentence"),
    [
        ({"error_rate": {"max": 0.05}}, side(20, 10), "failed: error_rate max 5 % does not hold"),
        ({"availability": {"min": 0.99}}, side(20, 10, unavailable=10), "got no answer: availability min 99 %"),
        ({"p95": {"max": "100ms"}}, side(20, slower=200), "took longer than 100 ms: p95 max 100 ms does not hold"),
    ],
)
def test_a_broken_guardrail_fails_with_its_figures(guardrail: Any, canary: Side, sentence: str) -> None:
    found = judge(guardrails=guardrail)
    # No stable traffic: nothing to compare with, and a limit holds all the same.
    feed(found, side(0), canary, 5)
    finding = found.finding()

    assert (finding.verdict, finding.action) == ("fail", "rollback")
    assert f"requests to v2 {sentence}" in finding.reason
    (test,) = [test for test in finding.evidence["tests"] if test["kind"] == "guardrail"]
    assert (test["verdict"], test["sentence"]) == ("fail", finding.reason)


def test_a_guardrail_that_stable_breaks_too_holds_for_two_minutes_then_fails() -> None:
    found = judge(guardrails={"error_rate": {"max": 0.05}})
    feed(found, side(90, 45), side(10, 5), 20)
    held = found.finding()
    assert held.verdict == "error"
    assert held.reason.startswith("shared incident: v1 breaks the same limit (")

    feed(found, side(90, 45), side(10, 5), int(SHARED_HOLD_S) + 1)
    assert found.finding().verdict == "fail"


def test_a_shared_incident_that_ends_is_forgotten() -> None:
    found = judge(guardrails={"error_rate": {"max": 0.05}})
    feed(found, side(90, 45), side(10, 5), 20)
    feed(found, side(90), side(10), 60)

    assert found.firing_since == {}
    assert found.finding().verdict != "error"


def test_a_guardrail_may_pause_or_only_warn() -> None:
    pausing = judge(guardrails={"error_rate": {"max": 0.05, "action": "pause"}})
    warning = judge(guardrails={"error_rate": {"max": 0.05, "action": "warn"}})
    for found in (pausing, warning):
        feed(found, side(0), side(20, 10), 5)

    assert (pausing.finding().verdict, pausing.finding().action) == ("fail", "pause")
    assert warning.finding().verdict != "fail"
    assert [t["verdict"] for t in warning.finding().evidence["tests"] if t["kind"] == "guardrail"] == ["fail"]


def test_a_criterion_that_is_shown_broken_does_what_the_plan_says() -> None:
    rolling = judge(criteria={"error_rate": {"max": 0.01}})
    pausing = judge(criteria={"error_rate": {"max": 0.01, "action": "pause"}})
    for found in (rolling, pausing):
        feed(found, side(0), side(20, 5), 20)

    assert rolling.finding().reason.startswith("100 of 400 requests to v2 failed: error_rate max 1 % does not hold, by")
    assert (pausing.finding().verdict, pausing.finding().action) == ("fail", "pause")


def test_a_criterion_that_stable_breaks_too_condemns_nobody() -> None:
    found = judge(criteria={"error_rate": {"max": 0.01}})
    feed(found, side(90, 20), side(10, 2), 100)

    assert found.finding().verdict == "inconclusive"
    assert "error_rate max 1 % does not hold: v2 has 20.00%" in found.finding().reason


# -- promotion -------------------------------------------------------------------------------------------------------


def test_a_good_canary_passes_each_stage_the_last_asks_for_more() -> None:
    found = judge()
    found.enter(0, 2)
    assert found.needed == pytest.approx(20**0.5)
    feed(found, side(900), side(100), 40)
    assert found.finding().verdict == "pass"
    assert found.finding().reason.startswith("shown after 4,000 canary requests: errors not 0.5 points above stable's")

    found.enter(1, 2)
    assert found.needed == 20.0
    assert (found.canary.requests, found.seconds) == (0, 0.0)
    feed(found, side(500), side(500), 10, weight=500_000)
    assert found.finding().verdict == "pass"


def test_what_is_missing_is_said_with_the_time_it_takes() -> None:
    found = judge(criteria={"min_requests": 500, "min_identities": 40})
    feed(found, side(90), side(10, identities=1), 10)
    missing = found.finding().evidence["missing"]

    assert missing[0] == "400 more canary requests for min_requests = 500 (40 s at this rate)"
    assert missing[1] == "30 more canary users for min_identities = 40"
    assert missing[2].startswith("about ")
    assert "to show errors not 0.5 points above stable's" in missing[2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.0, "s at this rate"), (60.0, "min at this rate"), (3600.0, "h at this rate"), (1e6, "weeks at this rate")],
)
def test_the_time_is_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    found = judge(criteria={"min_requests": 100})
    found.observe(Tick(0.0, 100_000, side(90), side(10), seconds))

    assert text in found.finding().reason


def test_days_are_told_as_days() -> None:
    found = judge(criteria={"min_requests": 100})
    found.observe(Tick(0.0, 100_000, side(90), side(10), 30_000.0))

    assert "(3 d at this rate)" in found.finding().reason


def test_before_the_first_request_it_asks_for_requests_to_both() -> None:
    found = judge(criteria={"error_rate": {"max": 0.01}})
    missing = found.finding().evidence["missing"]

    assert missing[0] == "requests to both versions at once, to show errors not 0.5 points above stable's"


def test_limits_that_do_not_hold_keep_a_stage_from_ending() -> None:
    found = judge(criteria={"p95": {"max": "10ms"}, "availability": {"min": 1.0}})
    feed(found, side(900), side(100, 1, unavailable=1), 1)
    missing = found.finding().evidence["missing"]

    assert missing[0] == "availability min 100 % does not hold: v2 has 99.00%"
    assert missing[1].startswith("p95 max 10 ms does not hold: v2 has ")


def test_suspicion_promotes_nobody() -> None:
    found = judge()
    feed(found, side(900), side(100), 60)
    found.comparison.errors.bet([2.0] * 4, 0.1)
    found.comparison.errors.bet([2.0] * 4, 0.1)
    for onset in found.comparison._latency:
        onset.bet([3.0] * 4, 0.1)
    missing = found.finding().evidence["missing"]

    assert any("under suspicion of more errors (e-value" in one for one in missing)
    assert any("under suspicion of slower answers" in one for one in missing)


def test_with_nothing_to_compare_a_stage_needs_only_its_limits() -> None:
    found = judge(criteria={"error_rate": {"max": 0.01}})
    found.enter(1, 2, compares=False)
    feed(found, side(0), side(100), 3, weight=1_000_000)
    finding = found.finding()

    assert (finding.verdict, finding.reason) == ("pass", "all limits hold, and nothing is left to compare with")


def test_a_canary_worse_by_the_margin_does_not_pass() -> None:
    found, chance = judge(), random.Random(3)
    found.enter(1, 2)
    for n in range(400):
        failures = [sum(chance.random() < rate for _ in range(k)) for k, rate in ((900, 0.002), (100, 0.007))]
        found.observe(Tick(float(n), 100_000, side(900, failures[0]), side(100, failures[1])))

    assert found.finding().verdict != "pass"


def test_evidence_for_safety_stays_near_what_is_asked_so_that_a_late_regression_undoes_it() -> None:
    found = judge()
    found.enter(1, 2)
    feed(found, side(900), side(100), 500)
    assert found.finding().verdict == "pass"
    feed(found, side(900), side(100, 5), 5)

    assert found.finding().verdict != "pass"


# -- suspicion of the experiment itself ------------------------------------------------------------------------------


def test_a_wrong_split_holds_with_figures() -> None:
    found = judge()
    feed(found, side(900, identities=80), side(100, identities=40), 20)
    finding = found.finding()

    assert finding.verdict == "error"
    assert finding.reason.startswith("sample-ratio mismatch: v2 got 800 of 2,400 new identities where 240 were due")


def test_a_stable_that_is_slowed_holds_as_interference() -> None:
    found = judge()
    feed(found, side(900), side(0), 5, weight=0)
    feed(found, side(900, slower=30), side(100, slower=30), 80)
    finding = found.finding()

    assert finding.verdict == "error"
    assert finding.reason.startswith("interference: v1 itself is half as slow again as before the rollout (median ")


# -- margins ---------------------------------------------------------------------------------------------------------


def test_a_plan_s_margins_take_the_place_of_the_usual_ones() -> None:
    usual = margins_of(plan().criteria)
    own = margins_of(
        plan(
            criteria={"error_rate": {"max_ratio": 2.0}, "p95": {"max_increase": "20ms"}, "p99": {"max_ratio": 1.5}}
        ).criteria
    )

    assert [str(m) for m in usual] == ["errors not 0.5 points above stable's", "p95 not above 1.1 times stable's"]
    assert [str(m) for m in own] == [
        "errors not above 2 times stable's",
        "p95 not 20 ms above stable's",
        "p99 not above 1.5 times stable's",
    ]
    assert [m.name for m in (*usual, *own)] == ["safe_errors", "safe_p95", "safe_errors_ratio", "safe_p95", "safe_p99"]


def test_a_ratio_of_errors_and_an_increase_of_latency_can_be_shown_too() -> None:
    criteria = {"error_rate": {"max_ratio": 2.0}, "p95": {"max_increase": "50ms"}, "p50": {"max": "1s"}}
    found = judge(criteria=criteria)
    feed(found, side(900, 18), side(100, 2), 1)
    assert "errors not above 2 times stable's" in " ".join(found.finding().evidence["missing"])
    feed(found, side(900, 18), side(100, 2), 60)

    assert found.finding().verdict == "pass"


def test_a_margin_is_at_least_a_bucket_and_stays_on_the_grid() -> None:
    assert cut_above(Margin("p95", "max_ratio", 1.1), 100) == 104
    assert cut_above(Margin("p95", "max_ratio", 1.0), 100) == 101
    assert cut_above(Margin("p95", "max_ratio", 9.0), 448) == 449
    assert cut_above(Margin("p95", "max_increase", 0.0), 100) == 101
    assert cut_above(Margin("p95", "max_increase", 100.0), 100) == 449


def test_safety_waits_for_a_past_and_for_a_warm_canary() -> None:
    safety, past = Safety(margins_of(plan().criteria)), Past()
    safety.add(side(90), side(10), (1.0, 1.0), past, is_warm=True)
    assert {safety.evidence(margin) for margin in safety.margins} == {1.0}

    past.add(side(1000))
    safety.add(side(90), side(10), (1.0, 1.0), past, is_warm=False)
    errors, p95 = safety.margins
    assert safety.evidence(errors) > 1.0
    assert safety.evidence(p95) == 1.0
    before = safety.evidence(errors)
    safety.temper(0.5, 1.0, 2.0)
    assert 1.0 < safety.evidence(errors) < before
    assert all(growth(margin, past, 0.1, (1.0, 1.0)) > 0 for margin in safety.margins)


# -- looks, ticks and taking over ------------------------------------------------------------------------------------


def test_ticks_out_of_order_or_twice_are_dropped() -> None:
    found = judge()
    feed(found, side(90), side(10), 5)
    before = found.state()
    for at in (4.0, 3.0, -1e9):
        found.observe(Tick(at, 100_000, side(90), side(10, 10)))

    assert found.state() == before


def test_too_little_of_stable_waits_for_more_and_not_for_ever() -> None:
    found = judge()
    feed(found, side(2), side(50, 50), 2)
    assert (found.seen, found.comparison.errors.evidence) == (0, 1.0)
    feed(found, side(2), side(50, 50), 1)
    assert found.seen == 150
    assert found.comparison.errors.evidence > 1

    lonely = judge()
    for n in range(4):
        lonely.observe(Tick(n * 100.0, 100_000, side(0), side(50), 100.0))
    assert lonely.seen == 150


def test_a_successor_gets_the_tick_that_waits_too() -> None:
    found = judge()
    feed(found, side(2), side(50, 50), 2)
    successor = Judge(found.settings, json.loads(json.dumps(found.state())))
    for one in (found, successor):
        feed(one, side(2), side(50, 50), 1)

    assert successor.state() == found.state()
    assert successor.seen == 150


def test_only_what_turned_out_alike_is_tempered() -> None:
    found = judge()
    feed(found, side(90), side(10, 1, slower=2), 30)
    errors, latency = found.comparison.errors.evidence, found.comparison.latency
    found.comparison.temper(0.5, 2.0, 2.0)

    assert found.comparison.errors.evidence < errors
    assert found.comparison.latency == latency


def test_a_look_changes_nothing() -> None:
    found = judge(guardrails={"error_rate": {"max": 0.05}}, criteria={"p95": {"max": "1s"}})
    feed(found, side(90), side(10, 1), 7)
    before = found.state()
    first = found.finding()

    assert found.finding() == first
    assert found.state() == before
    assert json.loads(json.dumps(first.evidence)) == first.evidence


def test_a_state_of_another_release_is_not_taken_over() -> None:
    found = judge()
    feed(found, side(90), side(10, 5), 5)

    assert Judge(found.settings, {**found.state(), "schema": 99}).state() == judge().state()


def test_several_canaries_share_the_chance_of_an_error_and_a_stage_may_have_its_own_criteria() -> None:
    own = {"weight": 10, "criteria": {"min_requests": 7}}
    both = plan(canary={"v2": 50, "v3": 50}, stages=[own, 50], criteria={"min_requests": 9})

    assert settings_of(both, "v3").alpha == 0.005
    assert [settings_of(both, "v3", n).criteria.min_requests for n in (-1, 0, 1, 2)] == [9, 7, 9, 9]


sides = st.builds(
    lambda n, x, slower, groups: side(n, min(n, x), slower=slower)._replace(
        groups={g: Group(1, min(1, x), 100) for g in groups}
    ),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 200),
    st.sets(st.integers(0, 63), max_size=8),
)
ticks = st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from([0, 1, 100_000, 1_000_000]), sides, sides), max_size=25)
RICH = {
    "guardrails": {"error_rate": {"max": 0.05}, "p95": {"max": "2s"}, "availability": {"min": 0.99}},
    "criteria": {"error_rate": {"max": 0.01, "max_increase": 0.01}, "p99": {"max_ratio": 1.2}, "min_requests": 50},
}


def is_sound(finding: Finding) -> bool:
    numbers = finding.evidence["e"].values()
    return all(isfinite(number) and number >= 0 for number in numbers) and "nan" not in json.dumps(finding.evidence)


@given(ticks, st.integers(0, 25))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_the_evidence_is_finite_and_a_successor_goes_on_exactly(found: list[Any], handover: int) -> None:
    first = judge(**RICH)
    second = judge(**RICH)
    for n, (at, weight, stable, canary) in enumerate(found):
        if n == handover:
            second = Judge(second.settings, json.loads(json.dumps(second.state())))
        for one in (first, second):
            one.observe(Tick(at, weight, stable, canary))
        assert is_sound(first.finding())

    assert json.loads(json.dumps(second.state())) == json.loads(json.dumps(first.state()))
    assert second.finding() == first.finding()


def test_fifty_thousand_requests_a_second_are_no_different() -> None:
    found = judge(**RICH)
    durations = dict.fromkeys(SHAPE, 5000)
    for n in range(300):
        found.observe(Tick(float(n), 500_000, Side(50_000, 50, 0, durations), Side(50_000, 50, 0, durations)))

    assert is_sound(found.finding())
    assert found.finding().verdict == "pass"


def test_a_fine_canary_is_hardly_ever_condemned_however_often_it_is_looked_at() -> None:
    """Not a proof, which the enumeration is: a hundred rollouts of 300 looks each."""
    condemned = 0
    for seed in range(100):
        chance, found = random.Random(seed), judge()
        for n in range(300):
            failures = [sum(chance.random() < 0.02 for _ in range(k)) for k in (90, 10)]
            found.observe(Tick(float(n), 100_000, side(90, failures[0]), side(10, failures[1])))
            if found.is_condemned:
                condemned += 1
                break

    assert condemned <= 2
