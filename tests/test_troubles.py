"""What goes wrong inside us is said once per cause and counted always."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from canary_middleware._troubles import Troubles

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
