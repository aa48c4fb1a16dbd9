"""
``canary report bug`` and ``canary report feedback``: what only people can say, and what follows from it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from .._control.people import METRICS, SEVERITIES, TRANSITIONS, keep, obstacle, report_of, tests_of, to_do
from .._core.plan.fields import percent
from ..errors import ConfigError, TransitionRefused
from .changes import acknowledge
from .report import report
from .session import TIMEOUT, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._control.findings import Test
    from .._control.people import Report
    from .._core.lifecycle.rollout import Rollout
    from ..stores.changes import Step
    from .session import Session


@report.command()
@click.argument("words", nargs=-1, metavar="[ROLLOUT] TEXT")
@click.option("--severity", type=click.Choice(SEVERITIES), required=True, help="Only severe ones count against limits.")
@verb
def bug(session: Session, words: tuple[str, ...], severity: str) -> None:
    """Report a bug of the new version; a severe one may roll it back at once."""
    _report(session, "bug", words, severity)


@report.command()
@click.argument("words", nargs=-1, metavar="[ROLLOUT] TEXT")
@verb
def feedback(session: Session, words: tuple[str, ...]) -> None:
    """Record what somebody says of the new version."""
    _report(session, "feedback", words)


def _report(session: Session, word: str, words: tuple[str, ...], severity: str | None = None) -> None:
    name, text = _named(session, word, words)
    said = report_of(word, text, severity)
    rollout = session.rollout(name)
    keep(session.control, rollout, said, session.actor)
    session.say("INFO", f"recorded for {rollout.name} at {percent(rollout.effective_ppm):g} %: {said.title}")
    tests = _tests(session, rollout, said)
    change = _act(session, rollout, said, tests)
    if session.as_json:
        session.answer({"rollout": rollout.name, "verb": word, **said.evidence, "tests": tests, "change": change})
    if change is not None and change["workers"]["missing"]:
        raise SystemExit(TIMEOUT)


def _named(session: Session, word: str, words: tuple[str, ...]) -> tuple[str | None, str]:
    """The rollout's name, where it was given, and the text."""
    if not 1 <= len(words) <= 2:
        raise click.UsageError(f'put the text in quotes: canary report {word} [ROLLOUT] "what you saw"')
    if len(words) == 2:
        return words[0], words[1]
    if words[0] in session.control.names():
        raise ConfigError(f'{words[0]} is a rollout, and no text: canary report {word} {words[0]} "what you saw"')
    return None, words[0]


def _tests(session: Session, rollout: Rollout, said: Report) -> list[Test]:
    """The plan's limits that the report counts for; those of a guardrail first."""
    if said.verb == "bug" and not said.is_severe:
        session.say("INFO", "minor bugs are only recorded: limits count severe ones")
        return []
    tests = tests_of(session.control, rollout, said)
    for test in tests:
        session.say(*_line(test))
    if not tests:
        session.say("INFO", f"the plan has no limit on {METRICS[said.verb]}: it is only recorded")
    return tests


def _line(test: Test) -> tuple[str, str]:
    name = f"{test['kind']} {test['name']}"
    if test["verdict"] == "pass":
        return "SUCCESS", f"{name} holds: {test['value']:g}"
    if test["verdict"] == "inconclusive":
        return "INFO", f"{name} still waits for {test['sentence']}"
    follows = "" if test["kind"] == "guardrail" else _FOLLOWS[test["action"]]
    return "WARNING", f"{name} does not hold: {test['sentence']}{follows}"


_FOLLOWS: Final = {
    "rollback": "; whoever decides for all rolls it back within seconds",
    "pause": "; whoever decides for all pauses it within seconds",
    "warn": "; the stage does not end while this stands",
}


def _act(session: Session, rollout: Rollout, said: Report, tests: Sequence[Test]) -> dict[str, Any] | None:
    """Do what the guardrail asks for, if the report broke it; what came of it."""
    broken = to_do(tests)
    if broken is None:
        return None
    why_not = obstacle(rollout)
    if why_not is None:
        try:
            return acknowledge(session, _change(session, rollout, said, broken))
        except TransitionRefused as error:
            why_not = str(error)
    session.say("INFO", f"no {broken['action']}: {why_not}")
    return None


def _change(session: Session, rollout: Rollout, said: Report, broken: Test) -> Step:
    transition = TRANSITIONS[broken["action"]]
    evidence = {"guardrail": {"severe_bugs": {"max": broken["limit"]}}, "reported": broken["value"], **said.evidence}
    return session.control.step(
        rollout.name,
        broken["action"],
        lambda current: transition(current, said.title),
        actor=session.actor,
        reason=session.reason or said.title,
        evidence=evidence,
    )


ALL: Final = (report,)
