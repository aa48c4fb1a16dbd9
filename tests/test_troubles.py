"""What goes wrong inside us is said once per cause and counted always."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from canary_middleware._core.assignment.override import Rejected
from canary_middleware._troubles import Troubles
from canary_middleware.testing import FakeClock

if TYPE_CHECKING:
    import pytest


def test_a_cause_is_logged_once_with_its_consequence_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()

    for error in (ValueError("first"), ValueError("second"), KeyError("third")):
        troubles.report("identity", error, "stable serves")
    troubles.report("telemetry", ValueError("fourth"), "nothing is sent")

    assert troubles.counts() == {
        ("identity", "ValueError"): 2,
        ("identity", "KeyError"): 1,
        ("telemetry", "ValueError"): 1,
    }
    assert [record.name for record in caplog.records] == ["canary_middleware"] * 3
    assert all(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)
    assert caplog.messages[0].startswith("canary identity failed with ValueError: first; stable serves.")
    assert "second" not in caplog.text


def test_the_counts_handed_out_do_not_change_afterwards() -> None:
    troubles = Troubles()
    before = troubles.counts()

    troubles.report("identity", ValueError("x"), "stable serves")

    assert before == {}


def test_one_line_a_minute_is_told_of_a_cause_with_the_number_held_back(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    troubles = Troubles(clock)

    for _ in range(5):
        troubles.tell(("fallback", "v2"), "v2 failed", ValueError("why"))
    troubles.tell(("fallback", "v3"), "v3 failed")
    clock.advance(60)
    troubles.tell(("fallback", "v2"), "v2 failed")

    assert caplog.messages == ["v2 failed", "v3 failed", "v2 failed (4 more of these since the last line)"]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False]


def test_what_a_client_did_is_told_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    Troubles().report("override", Rejected("forged"), "it asked for nothing")

    assert [record.exc_info for record in caplog.records] == [None]
