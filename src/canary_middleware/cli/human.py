"""
``canary report bug`` and ``canary report feedback``: what only people can say, and what follows from it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ..core import transitions
from ..core.fields import percent
from ..errors import ConfigError, TransitionRefused
from ..human import LOOK_BACK, SEVERITIES, findings_now, keep, report_of
from .changes import Change, acknowledge
from .report import report
from .session import TIMEOUT, verb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.rollout import Rollout
    from ..further import Test
    from ..human import Report
    from .session import Session

_TRANSITIONS: Final[dict[str, Callable[[Rollout, str], Rollout]]] = {
    "rollback": transitions.roll_back,
    "pause": transitions.pause,
}
_METRICS: Final = {"bug": "severe_bugs", "feedback": "feedback"}


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
    events = session.control.store.history(rollout.name, LOOK_BACK)
    metric = _METRICS[said.verb]
    tests = [test for test in findings_now(events, rollout) if test["name"].startswith(f"{metric} ")]
    for test in tests:
        session.say(*_line(test))
    if not tests:
        session.say("INFO", f"the plan has no limit on {metric}: it is only recorded")
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
    broken = next((test for test in tests if test["kind"] == "guardrail" and test["verdict"] == "fail"), None)
    if broken is None or broken["action"] not in _TRANSITIONS:
        return None
    action = broken["action"]
    obstacle = _obstacle(rollout)
    if obstacle is not None:
        session.say("INFO", f"no {action}: {obstacle}")
        return None
    try:
        return acknowledge(session, _change(session, rollout, said, broken))
    except TransitionRefused as error:
        session.say("INFO", f"no {action}: {error}")
        return None


def _obstacle(rollout: Rollout) -> str | None:
    if rollout.is_latched:
        return f"{rollout.name} is {rollout.phase.replace('_', ' ')} already"
    return None if rollout.plan.enforce else "`enforce` is false in the plan, which makes it a dry run"


def _change(session: Session, rollout: Rollout, said: Report, broken: Test) -> Change:
    transition = _TRANSITIONS[broken["action"]]
    evidence = {"guardrail": {"severe_bugs": {"max": broken["limit"]}}, "reported": broken["value"], **said.evidence}
    after = session.control.change(
        rollout.name,
        broken["action"],
        lambda current: transition(current, said.title),
        actor=session.actor,
        reason=session.reason or said.title,
        evidence=evidence,
    )
    return Change(rollout, after)


ALL: Final = (report,)
