"""One request from decision to outcome: it ends once, whatever happens in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.exchange import Exchange, Failure, Rare, Uncovered

from .heads import Head
from .test_door import door


def exchange(ended: list[Exchange]) -> Exchange:
    entered = door(key=["header:u"])
    entered.end = ended.append
    return Head().exchange(entered.decide(Head(headers={"u": "user"})), entered, 0.0)


EVENTS = {
    "finish": lambda e: e.finish(),
    "aborted": lambda e: e.aborted(),
    "raised": lambda e: e.raised(ValueError("x")),
    "status": lambda e: setattr(e, "status", 200),
    "fails": lambda e: setattr(e, "status", 503),
}


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=8))
def test_an_exchange_ends_exactly_once(events: list[str]) -> None:
    ended: list[Exchange] = []
    released: list[int] = []
    current = exchange(ended)
    current.release = lambda: released.append(1)
    endings = {"finish", "aborted", "raised"}

    for event in events:
        EVENTS[event](current)

    first = next((event for event in events if event in endings), None)
    assert len(ended) == len(released) == (first is not None)
    assert current.is_aborted == (first == "aborted")


def test_an_exception_is_a_500_unless_the_answer_said_worse() -> None:
    for status, expected in ((0, 500), (200, 500), (503, 503)):
        current = exchange([])
        current.status = status
        current.raised(ValueError("x"))

        assert (current.status, current.outcome_error, current.is_failed) == (expected, "ValueError", True)


def test_a_status_from_500_on_is_its_own_error() -> None:
    current = exchange([])
    assert (current.outcome_error, current.is_failed) == (None, False)

    current.status = 502

    assert (current.outcome_error, current.outcome_status, current.is_failed) == ("502", 502, True)


def test_a_fallback_counts_as_the_canarys_failure_whatever_stable_answers() -> None:
    current = exchange([])
    decided = current.assignment
    current.status = 503
    current.fall_back(Failure(503, "503"))
    current.status = 200

    assert (current.outcome_error, current.outcome_status, current.is_failed) == ("503", 503, True)
    assert (current.assignment.version, current.assignment.reason) == ("v1", "fallback")
    assert current.decided is decided
    assert current.variant.version == "v2"


@pytest.mark.parametrize(
    ("has_started", "is_body_over", "missed"),
    [(False, False, None), (True, False, "started"), (False, True, "body"), (True, True, "started")],
)
def test_stable_may_take_over_until_a_byte_is_out_or_a_body_lost_and_the_exchange_says_why_not(
    has_started: bool, is_body_over: bool, missed: str | None
) -> None:
    current = exchange([])

    may = current.may_fall_back(has_started=has_started, is_body_over=is_body_over)

    assert (may, current.missed) == (missed is None, missed)


def test_a_version_that_nothing_serves_is_reported_and_given_to_stable() -> None:
    current = exchange([])
    reported: list[str] = []
    current.door.complain = lambda component, error, consequence: reported.append(component)
    decided = current.assignment

    current.unserved(LookupError("no handler"))

    assert reported == ["dispatch"]
    assert (current.assignment.role, current.decided) == ("stable", decided)


def test_an_ordinary_request_is_not_odd() -> None:
    current = exchange([])
    assert current.odd is None
    assert current.decided is current.assignment

    current.new_id = "abc"

    assert current.odd == {"new_id": "abc"}
    assert isinstance(Exchange.new_id, Rare)


def test_an_uncovered_request_has_an_assignment_too() -> None:
    assigned = exchange([]).assignment

    assert Uncovered(assigned).assignment is assigned
