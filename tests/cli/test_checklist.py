"""``canary check``: what a machine sees, what a person says, and where both end up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware._core.lifecycle import transitions

from .test_views import counted

if TYPE_CHECKING:
    from .conftest import Terminal

START = ("schema", "rehearsed", "on-call", "dashboards")
OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def said(*keys: str, word: str = "yes") -> list[str]:
    return [part for key in keys for part in ("--answer", f"{key}={word}")]


def lines(terminal: Terminal, *words: str, code: int) -> dict[str, dict[str, Any]]:
    return {line["key"]: line for line in terminal.json("check", *words, code=code)}


@pytest.fixture
def ready(terminal: Terminal) -> Terminal:
    """A rollout with guardrails, a key and a worker."""
    terminal.declare("search", guardrails={"error_rate": {"max": 0.05}}, key=["header:x-user-id"])
    terminal.beat()
    return terminal


def test_everything_in_order_is_a_go(ready: Terminal) -> None:
    result = ready.run("check", "search", *said(*START), **OTLP)

    assert result.exit_code == 0, result.output
    assert "go at start" in result.stdout
    assert "SUCCESS  ✓ the plan begins with a small stage (10 % or less) – 10 % → 50 % → 100 %" in result.stdout
    assert "✓ Has the rollback been rehearsed? [ada]" in result.stdout


def test_answers_are_in_the_audit_and_not_asked_for_twice(ready: Terminal) -> None:
    ready.run("check", "search", "--answer", "schema=yes:expand and contract", *said(*START[1:]))

    again = lines(ready, "search", code=0)
    anew = lines(ready, "search", "--again", code=3)
    event = ready.store.history("search", 1)[0]

    assert (again["schema"]["by"], again["schema"]["note"]) == ("ada", "expand and contract")
    assert anew["schema"]["holds"] is None
    assert (event.verb, event.actor, event.evidence["at"]) == ("check", "ada", "start")
    assert event.evidence["answers"]["schema"] == {"holds": True, "note": "expand and contract"}
    assert ready.control.rollout("search").revision == 0


def test_whoever_only_looks_leaves_no_line_in_the_audit(ready: Terminal) -> None:
    ready.run("check", "search", *said(*START))
    before = len(ready.store.history("search"))

    ready.run("check", "search")
    lines(ready, "search", code=0)

    assert len(ready.store.history("search")) == before


def test_a_machines_finding_is_never_logged_as_an_answer(ready: Terminal) -> None:
    ready.run("check", "search", *said("schema"), CANARY_ACTOR="machine")

    assert set(ready.store.history("search", 1)[0].evidence["answers"]) == {"schema"}


def test_forced_requests_are_no_evidence(ready: Terminal) -> None:
    ready.ok("start", "search")
    forced = counted(5000, rollout="search", version="v2", role="canary", reason="override")
    ready.store.add_counts("w", 1, int(ready.store.now()), forced)

    found = lines(ready, "search", "--at", "full", code=1)

    assert (found["requests"]["holds"], found["requests"]["note"]) == (False, "0 of 1,000 requests")
    assert found["errors"]["holds"] is found["criteria"]["holds"] is None


def test_limits_that_say_nothing_are_not_said_to_hold(terminal: Terminal) -> None:
    terminal.beat()

    assert lines(terminal, "--at", "1h", code=1)["criteria"]["note"] == "none in the plan"


@pytest.mark.parametrize(
    "environment", [{"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {**OTLP, "OTEL_SDK_DISABLED": "true"}], ids=["empty", "off"]
)
def test_telemetry_that_is_off_is_not_said_to_be_exported(ready: Terminal, environment: dict[str, str]) -> None:
    result = ready.run("check", "search", *said(*START), **environment)

    assert "WARNING  ? telemetry is exported" in result.stdout


def test_answers_are_for_one_moment_and_one_run(ready: Terminal) -> None:
    ready.run("check", "search", *said(*START))
    ready.ok("start", "search")

    assert lines(ready, "search", code=3)["schema"]["holds"] is None
    assert lines(ready, "search", "--at", "1h", code=3)["dashboards"]["holds"] is None


def test_questions_that_nobody_answered_are_open(ready: Terminal) -> None:
    result = ready.run("check", "search")

    assert result.exit_code == 3
    assert "open at start: schema, rehearsed, on-call, dashboards" in result.stdout
    assert "--answer schema=yes|no" in result.stdout


def test_a_no_is_a_no_go(ready: Terminal) -> None:
    result = ready.run("check", "search", *said("rehearsed", word="no"), *said("schema", "on-call", "dashboards"))

    assert result.exit_code == 1
    assert "no-go at start: rehearsed" in result.stdout


def test_a_person_at_a_terminal_is_asked(ready: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canary_middleware.cli.session._is_terminal", lambda: True)

    result = ready.run("check", "search", answer="y expand and contract\nno\nyes\n\n")

    assert result.exit_code == 1
    assert "✓ Do both versions work with the database schema as it is? – expand and contract [ada]" in result.stdout
    assert "✗ Has the rollback been rehearsed? [ada]" in result.stdout
    assert "skipped [nobody yet]" in result.stdout


def test_what_the_machine_sees_wrong_is_a_no_go(terminal: Terminal) -> None:
    terminal.beat("host:1:behind", revision=-1, pinned={"checkout": 100_000})

    found = lines(terminal, *said(*START), code=1)

    assert {key for key, line in found.items() if line["holds"] is False} == {
        *("workers", "unpinned", "guardrails", "identity"),
    }
    assert found["workers"]["note"] == "behind: host:1:behind"
    terminal.control.change("checkout", "rollback", lambda r: transitions.roll_back(r, "x"), actor="grace")
    assert lines(terminal, *said(*START), code=1)["unlatched"]["note"] == "rolled back"


def test_a_running_rollout_is_held_to_figures(ready: Terminal) -> None:
    ready.ok("start", "search")
    questions = said("on-call", "dashboards", "bugs", "feedback", "side-effects")
    early = lines(ready, "search", "--at", "full", *questions, code=1)
    now = int(ready.store.now())
    ready.beat(revision=1)
    ready.store.add_counts("w", 1, now, counted(2000, rollout="search"))
    ready.store.add_counts("w", 2, now, counted(1500, rollout="search", version="v2", role="canary"))
    good = lines(ready, "search", "--at", "full", *questions, code=0)
    failed = counted(200, rollout="search", version="v2", role="canary", error="500")
    ready.store.add_counts("w", 3, now, failed)
    bad = lines(ready, "search", "--at", "full", *questions, code=1)

    assert early["requests"]["note"] == "0 of 1,000 requests"
    assert early["errors"]["holds"] is early["latency"]["holds"] is None
    assert good["requests"]["note"] == "1,500 of 1,000 requests"
    assert good["latency"]["holds"] is True
    assert {key for key, line in bad.items() if line["holds"] is False} == {"errors", "criteria"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [("schemas=yes", "at start the questions are schema"), ("schema=maybe", "must be schema=yes"), ("x", "are schema")],
)
def test_an_answer_that_is_none_is_named(ready: Terminal, answer: str, message: str) -> None:
    result = ready.run("check", "search", "--answer", answer)

    assert result.exit_code == 2
    assert message in result.stderr
