"""What people report: counted from the audit trail, since the stage began."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import open_store
from canary_middleware._control.findings import with_tests
from canary_middleware._control.people import findings_now, human_findings, keep, report_of
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.progress import Finding
from canary_middleware._core.lifecycle.records import Event
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.schema import Criteria, parse
from canary_middleware.errors import ConfigError
from canary_middleware.stores.changes import Control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from canary_middleware._control.findings import Test


def declared(**fields: Any) -> Rollout:
    stages = [10, {"weight": 50, "criteria": {"feedback": {"min": 2}}}, 100]
    return Rollout(plan=parse({"rollout": {"checkout": {"stages": stages, **fields}}}).rollouts[0])


def criteria(**limits: Any) -> Criteria:
    return declared(criteria=limits).plan.criteria


def event(verb: str, at_s: float, actor: str = "ada", **evidence: Any) -> Event:
    return Event(
        rollout="checkout", revision=1, at_s=at_s, actor=actor, verb=verb, before={}, after={}, evidence=evidence
    )


def severe(at_s: float, text: str = "the total is wrong") -> Event:
    return event("bug", at_s, severity="severe", text=text)


def only(tests: list[Test]) -> Test:
    (found,) = tests
    return found


@pytest.fixture
def control() -> Iterator[Control]:
    store = open_store("memory:")
    yield Control(store)
    store.close()


NO_BUGS = criteria(severe_bugs={"max": 0})
FEEDBACK = criteria(feedback={"min": 1})


def test_a_severe_bug_since_the_stage_began_fails() -> None:
    found = only(human_findings([severe(20.0)], NO_BUGS, 10.0))

    assert found == {
        "name": "severe_bugs max 0",
        "kind": "criterion",
        "verdict": "fail",
        "value": 1.0,
        "limit": 0.0,
        "sentence": "a severe bug was reported, 0 may be; by ada: the total is wrong",
        "action": "rollback",
    }


@pytest.mark.parametrize(
    "events",
    [[], [severe(9.9)], [event("bug", 20.0, severity="minor", text="a typo")], [event("feedback", 20.0, text="fine")]],
)
def test_older_and_minor_bugs_and_none_pass(events: list[Event]) -> None:
    assert only(human_findings(events, NO_BUGS, 10.0))["verdict"] == "pass"


def test_as_many_severe_bugs_as_the_plan_lets_pass() -> None:
    two = criteria(severe_bugs={"max": 2, "action": "warn"})
    events = [severe(30.0, "third"), severe(20.0), severe(10.0)]

    assert only(human_findings(events[1:], two, 0.0))["verdict"] == "pass"
    found = only(human_findings(events, two, 0.0, kind="guardrail"))
    assert (found["verdict"], found["kind"], found["action"]) == ("fail", "guardrail", "warn")
    assert found["sentence"] == "3 severe bugs were reported, 2 may be; by ada: third"


def test_missing_feedback_names_the_command_that_gives_it() -> None:
    found = only(human_findings([event("feedback", 9.0)], FEEDBACK, 10.0))

    assert (found["verdict"], found["value"], found["limit"]) == ("inconclusive", 0.0, 1.0)
    assert found["sentence"] == 'somebody\'s feedback: type `canary report feedback "…"`'
    assert only(human_findings([event("feedback", 10.0)], FEEDBACK, 10.0))["verdict"] == "pass"


def test_feedback_asked_for_several_times_says_how_often_it_was_given() -> None:
    found = only(human_findings([event("feedback", 20.0)], criteria(feedback={"min": 3}), 10.0))

    assert found["sentence"].startswith("feedback 3 times, 1 until now")


def test_who_resumes_after_a_pause_knows_of_the_bug() -> None:
    pausing = criteria(severe_bugs={"max": 0, "action": "pause"})
    by_hand = [event("resume", 30.0), severe(20.0)]

    assert only(human_findings(by_hand, pausing, 10.0))["verdict"] == "pass"
    assert only(human_findings([severe(40.0), *by_hand], pausing, 10.0))["value"] == 1
    assert only(human_findings(by_hand, NO_BUGS, 10.0))["verdict"] == "fail"
    by_itself = [event("resume", 30.0, actor="controller"), severe(20.0)]
    assert only(human_findings(by_itself, pausing, 10.0))["verdict"] == "fail"


def test_other_limits_are_the_judges() -> None:
    assert human_findings([severe(20.0)], criteria(error_rate={"max": 0.01}), 0.0) == []


def test_reports_in_a_store_count_for_the_stage_in_force(control: Control) -> None:
    control.register(
        declared(criteria={"feedback": {"min": 1}}, guardrails={"severe_bugs": {"max": 1}}), actor="app", reason=""
    )

    def now() -> list[tuple[str, str, str, float]]:
        tests = findings_now(control.store.history("checkout", 100), control.rollout("checkout"))
        return [(test["kind"], test["name"], test["verdict"], test["value"]) for test in tests]

    control.change("checkout", "start", transitions.start, actor="ada")
    keep(control, control.rollout("checkout"), report_of("feedback", "fine"), "bob")
    keep(control, control.rollout("checkout"), report_of("bug", "no total", "severe"), "bob")
    first = now()
    control.change("checkout", "promote", transitions.advance, actor="ada")

    assert first == [
        ("guardrail", "severe_bugs max 1", "pass", 1.0),
        ("criterion", "feedback min 1", "pass", 1.0),
    ]
    assert now() == [
        ("guardrail", "severe_bugs max 1", "pass", 1.0),
        ("criterion", "feedback min 2", "inconclusive", 0.0),
    ]
    row = control.store.history("checkout", 2)[1]
    assert (row.verb, row.actor, row.reason) == ("bug", "bob", "severe bug: no total")
    assert dict(row.evidence) == {"severity": "severe", "text": "no total"}
    assert row.before == row.after


@pytest.mark.parametrize(("text", "said"), [("", "say in a sentence"), (" \n", "what is wrong"), ("x" * 1001, "1000")])
def test_a_report_needs_a_text_that_can_be_read(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        report_of("bug", text, "minor")


def test_a_text_is_one_line_without_escapes() -> None:
    assert report_of("feedback", " two\n lines\x1b[2K ").text == "two lines?[2K"


# -- one finding of all ------------------------------------------------------------------------------------------------

FAILS = {"name": "a", "kind": "criterion", "verdict": "fail", "sentence": "a bug", "action": "rollback"}
PAUSES = {**FAILS, "sentence": "a wait", "action": "pause"}
WARNS = {**FAILS, "sentence": "a warning", "action": "warn"}
WAITS = {**FAILS, "verdict": "inconclusive", "sentence": "feedback"}
HOLDS = {**FAILS, "verdict": "pass", "sentence": ""}
GUARD = {**WAITS, "kind": "guardrail"}


@pytest.mark.parametrize(
    ("finding", "tests", "expected"),
    [
        (Finding("pass", "as good"), [], ("pass", "as good", "rollback")),
        (Finding("pass", "as good"), [HOLDS, GUARD], ("pass", "as good", "rollback")),
        (Finding("pass", "as good"), [WAITS], ("inconclusive", "feedback", "rollback")),
        (Finding("pass", "as good"), [WARNS], ("inconclusive", "a warning", "rollback")),
        (Finding("pass", "as good"), [{**WARNS, "kind": "guardrail"}], ("pass", "as good", "rollback")),
        (Finding("pass", "as good"), [PAUSES, WAITS], ("fail", "a wait", "pause")),
        (Finding("pass", "as good"), [PAUSES, FAILS], ("fail", "a bug", "rollback")),
        (Finding("error", "mismatch"), [WAITS], ("error", "mismatch", "rollback")),
        (Finding("error", "mismatch"), [PAUSES], ("fail", "a wait", "pause")),
        (Finding("inconclusive", "too few"), [WAITS], ("inconclusive", "too few", "rollback")),
        (Finding("inconclusive", "too few"), [FAILS], ("fail", "a bug", "rollback")),
        (Finding("fail", "slow"), [FAILS], ("fail", "slow", "rollback")),
        (Finding("fail", "slow", action="pause"), [FAILS], ("fail", "a bug", "rollback")),
        (Finding("fail", "slow", action="pause"), [PAUSES], ("fail", "slow", "pause")),
    ],
)
def test_the_gravest_of_the_judges_finding_and_further_limits_wins(
    finding: Finding, tests: list[Test], expected: tuple[str, str, str]
) -> None:
    found = with_tests(finding, tests)

    assert (found.verdict, found.reason, found.action) == expected


def test_the_evidence_holds_all_tests_and_all_that_is_missing() -> None:
    found = with_tests(Finding("inconclusive", "too few", {"tests": [HOLDS], "missing": ["more"], "e": {}}), [WAITS])

    assert found.evidence == {"tests": [HOLDS, WAITS], "missing": ["more", "feedback"], "e": {}}
