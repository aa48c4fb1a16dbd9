"""Waiting ends at the first true value, and at the deadline says what it saw."""

from __future__ import annotations

import pytest

from tests.support.wait import eventually


def test_the_first_true_value_is_returned() -> None:
    values = iter([0, "", 7])

    assert eventually(lambda: next(values), interval=0) == 7


def test_an_assertion_inside_the_condition_means_not_yet() -> None:
    tries = []

    def third_time() -> bool:
        tries.append(1)
        assert len(tries) == 3
        return True

    assert eventually(third_time, interval=0)


def test_the_deadline_names_the_last_value_and_the_message() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s: last value \[\]; nothing came"):
        eventually(list, timeout=0, message=lambda: "nothing came")


def test_the_last_failed_assertion_is_the_cause() -> None:
    def never() -> bool:
        raise AssertionError("3 of 4")

    with pytest.raises(AssertionError, match="3 of 4") as failure:
        eventually(never, timeout=0)

    assert isinstance(failure.value.__cause__, AssertionError)


def test_any_other_error_ends_the_waiting_at_once() -> None:
    with pytest.raises(KeyError):
        eventually(lambda: dict[str, int]()["no"], timeout=60)
