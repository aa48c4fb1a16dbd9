"""`canary report bug|feedback`: a line in the audit trail, what it means, and a rollback where the plan asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Terminal

GUARDED = {
    "criteria": {"severe_bugs": {"max": 0}, "feedback": {"min": 2}},
    "guardrails": {"severe_bugs": {"max": 0}},
}


def guard(terminal: Terminal, name: str = "cart", **fields: Any) -> None:
    terminal.declare(name, **{**GUARDED, **fields})
    terminal.beat()
    terminal.ok("start", name)


def test_a_report_is_a_line_in_the_audit_trail(terminal: Terminal) -> None:
    terminal.ok("report", "bug", "--severity", "minor", "a typo\nin the\x1b[2K footer", "--actor", "grace")
    terminal.ok("report", "feedback", "checkout", "nobody complains")

    newest, older = terminal.json("history", "--limit", "2")
    assert (newest["actor"], newest["verb"], newest["reason"]) == ("ada", "feedback", "nobody complains")
    assert (older["actor"], older["verb"], older["reason"]) == ("grace", "bug", "minor bug: a typo in the?[2K footer")
    assert older["evidence"] == {"severity": "minor", "text": "a typo in the?[2K footer"}
    assert terminal.json("status")["revision"] == 0


def test_a_severe_bug_rolls_back_before_the_command_returns(terminal: Terminal) -> None:
    guard(terminal)

    said = terminal.ok("report", "bug", "cart", "the total is wrong", "--severity", "severe")

    assert "guardrail severe_bugs max 0 does not hold: a severe bug was reported" in said
    assert "SUCCESS" in said
    rollout = terminal.control.rollout("cart")
    assert (rollout.phase, rollout.phase_reason, rollout.effective_ppm) == (
        "rolled_back",
        "severe bug: the total is wrong",
        0,
    )
    rollback, bug = terminal.store.history("cart", 2)
    assert (rollback.verb, rollback.actor, bug.verb) == ("rollback", "ada", "bug")
    assert rollback.evidence["guardrail"] == {"severe_bugs": {"max": 0.0}}
    assert rollback.evidence["text"] == "the total is wrong"


def test_the_next_run_begins_without_the_old_bug(terminal: Terminal) -> None:
    guard(terminal)
    terminal.ok("report", "bug", "cart", "no total", "--severity", "severe")
    again = terminal.json("report", "bug", "cart", "no total", "--severity", "severe")
    terminal.ok("retry", "cart")

    found = terminal.json("report", "bug", "cart", "no tax", "--severity", "severe")

    assert again["change"] is None
    assert (found["change"]["phase"], found["tests"][0]["value"]) == ("rolled_back", 1)


def test_a_worker_that_does_not_follow_is_told_of(terminal: Terminal) -> None:
    guard(terminal)
    terminal.beat(revision=1)

    result = terminal.run("report", "bug", "cart", "no total", "--severity", "severe")

    assert result.exit_code == 4
    assert terminal.control.rollout("cart").phase == "rolled_back"


def test_a_severe_bug_that_only_pauses(terminal: Terminal) -> None:
    guard(terminal, guardrails={"severe_bugs": {"max": 0, "action": "pause"}})

    assert terminal.json("report", "bug", "cart", "no total", "--severity", "severe")["change"]["phase"] == "paused"


def test_where_nothing_moves_a_pause_is_refused_and_the_bug_is_recorded_all_the_same(terminal: Terminal) -> None:
    terminal.declare("cart", guardrails={"severe_bugs": {"max": 0, "action": "pause"}})

    said = terminal.ok("report", "bug", "cart", "no total", "--severity", "severe")

    assert "no pause: " in said
    assert terminal.store.history("cart", 1)[0].verb == "bug"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"enforce": False}, "no rollback: `enforce` is false in the plan"),
        ({"guardrails": {"severe_bugs": {"max": 0, "action": "warn"}}}, "guardrail severe_bugs max 0 does not hold"),
        ({"guardrails": {}}, "criterion severe_bugs max 0 does not hold"),
        ({"guardrails": {}}, "whoever decides for all rolls it back within seconds"),
        ({"guardrails": {}, "criteria": {}}, "the plan has no limit on severe_bugs: it is only recorded"),
        ({"guardrails": {"severe_bugs": {"max": 1}}, "criteria": {}}, "guardrail severe_bugs max 1 holds: 1"),
    ],
)
def test_what_a_severe_bug_means_is_said(terminal: Terminal, fields: dict[str, Any], said: str) -> None:
    guard(terminal, **fields)

    assert said in terminal.ok("report", "bug", "cart", "no total", "--severity", "severe")
    assert terminal.control.rollout("cart").phase == "progressing"


def test_feedback_says_what_the_stage_still_waits_for(terminal: Terminal) -> None:
    guard(terminal)

    first = terminal.ok("report", "feedback", "cart", "fine here")
    second = terminal.ok("report", "feedback", "cart", "fine there")

    assert "criterion feedback min 2 still waits for feedback 2 times, 1 until now" in first
    assert "criterion feedback min 2 holds: 2" in second


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bug", "no total"], "Missing option '--severity'"),
        (["bug", "--severity", "grave", "no total"], "'grave' is not one of"),
        (["bug", "--severity", "minor"], "put the text in quotes"),
        (["feedback", "all", "is", "well"], "put the text in quotes"),
        (["feedback", "checkout"], "checkout is a rollout, and no text"),
        (["feedback", "  "], "say in a sentence"),
        (["feedback", "chekout", "fine"], "did you mean 'checkout'?"),
    ],
)
def test_a_report_that_cannot_be_recorded_says_why(terminal: Terminal, words: list[str], said: str) -> None:
    result = terminal.run("report", *words)

    assert result.exit_code == 2
    assert said in result.stderr
    assert [event.verb for event in terminal.store.history("checkout", 9)] == ["register"]
