"""
``canary check``: the go/no-go list before a rollout starts, while it runs, and before everybody gets it.

What a machine can see is checked; the rest is asked of a person, and the answer stands in the audit trail.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from .._core.lifecycle.records import BEGINNINGS, Event, summary_of
from .._core.lifecycle.rollout import RANDOMISED
from .._views.acknowledged import followers_of
from .._views.limits import limits_of
from .._views.status import began_s, fleet_counts
from .._views.summary import summarise
from .completion import rollout_names
from .session import FINE, NEEDS_A_HUMAN, STOPPED, fail, verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._core.lifecycle.rollout import Rollout
    from ..stores.changes import Control
    from .session import Session

MOMENTS: Final = ("start", "1h", "6h", "24h", "full")
_RUNNING: Final = ("1h", "6h", "24h", "full")
_VERB: Final = "check"
# REFERENCE figures for a promotion, where the plan has no criteria of its own.
_LEAST_REQUESTS: Final = 1000


class Line(NamedTuple):
    """
    One line of the list.

    Attributes:
        key: names it in ``--answer`` and in the audit trail.
        holds: True, False, or None where it is open.
        by: ``machine``, or who answered.
    """

    key: str
    text: str
    holds: bool | None
    note: str = ""
    by: str = "machine"


class _Facts(NamedTuple):
    """What the machine's lines look at."""

    control: Control
    rollout: Rollout
    figures: Mapping[str, Any]


class _Check(NamedTuple):
    key: str
    text: str
    look: Callable[[_Facts], tuple[bool | None, str]]
    moments: tuple[str, ...] = MOMENTS


class _Question(NamedTuple):
    key: str
    text: str
    moments: tuple[str, ...] = MOMENTS


def _workers(facts: _Facts) -> tuple[bool, str]:
    found = followers_of(facts.control.store, facts.rollout.name)
    behind = found.behind(facts.rollout.revision)
    note = f"behind: {', '.join(behind)}" if behind else f"{len(found.live)} running"
    return bool(found.live) and not behind, note


def _unpinned(facts: _Facts) -> tuple[bool, str]:
    pinned = [w.id for w in facts.control.store.workers() if facts.rollout.name in w.pinned]
    return not pinned, f"pinned in {', '.join(pinned)}" if pinned else ""


def _unlatched(facts: _Facts) -> tuple[bool, str]:
    return not facts.rollout.is_latched, facts.rollout.phase.replace("_", " ")


def _guarded(facts: _Facts) -> tuple[bool, str]:
    named = [limit.metric for limit in facts.rollout.plan.guardrails.limits]
    return bool(named) and facts.rollout.plan.enforce, ", ".join(named) or "none in the plan"


def _staged(facts: _Facts) -> tuple[bool, str]:
    weights = [stage.weight_ppm / 10_000 for stage in facts.rollout.plan.stages]
    return bool(weights) and weights[0] <= 10, " → ".join(f"{weight:g} %" for weight in weights) or "none in the plan"


def _identified(facts: _Facts) -> tuple[bool, str]:
    sources = [source.spec for source in facts.rollout.plan.key]
    return bool(sources), ", ".join(sources) or "none in the plan"


def _telemetry(_facts: _Facts) -> tuple[bool | None, str]:
    from ..telemetry.probe import wanted  # here, because no other verb needs it

    # Not whether a variable is there: an empty one, or OTEL_SDK_DISABLED, exports nothing.
    signals = wanted(os.environ)
    return (True, ", ".join(signals)) if signals else (None, "the environment here asks for none; does the service's?")


def _enough(facts: _Facts) -> tuple[bool, str]:
    seen = facts.figures["canary"]["request_count"]
    least = facts.rollout.plan.criteria.min_requests or _LEAST_REQUESTS
    return seen >= least, f"{seen:,} of {least:,} requests"


def _error_rate(facts: _Facts) -> tuple[bool | None, str]:
    if not facts.figures["canary"]["request_count"]:
        return None, "no request yet"
    difference = facts.figures["comparison"]["error_rate_difference"]
    return difference < 0.005, f"{difference * 100:+.2f} points; less than +0.5"


def _slowness(facts: _Facts) -> tuple[bool | None, str]:
    comparison = facts.figures["comparison"]
    stable, canary = comparison["legacy_p95_response_time"], comparison["canary_p95_response_time"]
    if not stable or not canary:
        return None, "no requests to compare yet"
    return (canary - stable) / stable < 0.10, f"p95 {canary:.0f} ms against {stable:.0f} ms; less than +10 %"


def _criteria(facts: _Facts) -> tuple[bool | None, str]:
    found = limits_of(facts.rollout, facts.figures)
    limits = (*found["criteria"], *found["guardrails"])
    broken = [one["metric"] for one in limits if one["holds"] is False]
    if broken:
        return False, f"broken: {', '.join(broken)}"
    if any(one["holds"] for one in limits):
        return True, ""
    return None, "no figures yet" if limits else "none in the plan"


_CHECKS: Final = (
    _Check("workers", "every live worker serves the state in force", _workers),
    _Check("unpinned", "no environment pins the weight", _unpinned),
    _Check("unlatched", "neither rolled back nor under the emergency latch", _unlatched),
    _Check("guardrails", "guardrails would stop a broken version", _guarded),
    _Check("stages", "the plan begins with a small stage (10 % or less)", _staged, ("start",)),
    _Check("identity", "users are recognised by something that does not change", _identified, ("start",)),
    _Check("telemetry", "telemetry is exported", _telemetry, ("start",)),
    _Check("requests", "the new version has served enough requests", _enough, ("24h", "full")),
    _Check("errors", "its error rate is that of the old one", _error_rate, _RUNNING),
    _Check("latency", "it is not slower than the old one", _slowness, _RUNNING),
    _Check("criteria", "criteria and guardrails of the plan hold", _criteria, _RUNNING),
)
_QUESTIONS: Final = (
    _Question("schema", "Do both versions work with the database schema as it is?", ("start",)),
    _Question("rehearsed", "Has the rollback been rehearsed?", ("start",)),
    _Question("on-call", "Does whoever is on call know of it, and how to roll back?", ("start", "full")),
    _Question("dashboards", "Are the dashboards and alerts per version in place and looked at?"),
    _Question("bugs", "Is no severe bug of the new version open?", _RUNNING),
    _Question("feedback", "Has the feedback of users been recorded, and is it good enough?", ("24h", "full")),
    _Question("side-effects", "Do logs, queues, caches and the database look as usual?", _RUNNING),
)


@click.command()
@click.argument("rollout", required=False, shell_complete=rollout_names)
@click.option("--at", "moment", type=click.Choice(MOMENTS), default="start", show_default=True, help="Which list.")
@click.option("--answer", "answers", multiple=True, metavar="KEY=yes|no[:NOTE]", help="Answer without being asked.")
@click.option("--again", is_flag=True, help="Ask again what has been answered since the rollout began.")
@verb
def check(session: Session, rollout: str | None, moment: str, answers: tuple[str, ...], again: bool) -> None:
    """
    Go or no-go: before the start, after 1 h, 6 h and 24 h, and before everybody gets it.

    Ends with 0 (go), 1 (no-go) or 3 (questions are open).
    """
    found = session.rollout(rollout)
    given = _given(answers, moment)
    lines = list(_looked_at(session.control, found, moment))
    known = {} if again else _answered_before(session.control, found, moment)
    asked = (question for question in _QUESTIONS if moment in question.moments)
    answered = [_asked(session, question, given, known) for question in asked]
    lines.extend(answered)
    # Whoever only looks at what was said before has said nothing new.
    fresh = [line for line in answered if line.holds is not None and (line.key in given or line.key not in known)]
    if fresh:
        session.control.store.log(_event(session, found, moment, fresh))
    if session.as_json:
        session.answer([line._asdict() for line in lines])
    _show(session, lines)
    raise SystemExit(_verdict(session, moment, lines))


def _looked_at(control: Control, rollout: Rollout, moment: str) -> Iterable[Line]:
    since_s = began_s(control.store, rollout.name)
    # Forced requests are no evidence: a tester, or `canary test` itself, would make up a thousand of them.
    counted = fleet_counts(control.store, since_s).series
    series = {s: cell for s, cell in counted.items() if s.variant.reason in RANDOMISED}
    figures = summarise(series, rollout.plan, max(1.0, control.store.now() - since_s))
    facts = _Facts(control, rollout, figures)
    for one in _CHECKS:
        if moment in one.moments:
            holds, note = one.look(facts)
            yield Line(one.key, one.text, holds, note)


def _asked(
    session: Session, question: _Question, given: Mapping[str, tuple[bool, str]], known: Mapping[str, Line]
) -> Line:
    if question.key in given:
        holds, note = given[question.key]
        return Line(question.key, question.text, holds, note, session.actor)
    if question.key in known:
        return known[question.key]._replace(text=question.text)
    if not session.can_ask():
        return Line(question.key, question.text, None, f"--answer {question.key}=yes|no", "nobody yet")
    reply = click.prompt(f"{question.text} [y/n/skip]", default="skip", show_default=False)
    word, _, note = reply.strip().partition(" ")
    holds_by_word = {"y": True, "yes": True, "n": False, "no": False}
    if word.lower() not in holds_by_word:
        return Line(question.key, question.text, None, "skipped", "nobody yet")
    return Line(question.key, question.text, holds_by_word[word.lower()], note.strip(), session.actor)


def _given(answers: tuple[str, ...], moment: str) -> dict[str, tuple[bool, str]]:
    open_keys = [question.key for question in _QUESTIONS if moment in question.moments]
    found = {}
    for text in answers:
        key, _, said = text.partition("=")
        word, _, note = said.partition(":")
        if key not in open_keys:
            fail(f"--answer {text!r}: at {moment} the questions are {', '.join(open_keys)}", 2)
        if word not in ("yes", "no"):
            fail(f"--answer {text!r}: must be {key}=yes or {key}=no, perhaps with :NOTE", 2)
        found[key] = (word == "yes", note)
    return found


def _answered_before(control: Control, rollout: Rollout, moment: str) -> dict[str, Line]:
    """What people have answered at this moment of the present run, the last answer of each."""
    found: dict[str, Line] = {}
    for event in control.store.history(rollout.name, 1000):
        if event.verb in BEGINNINGS:
            break
        if event.verb != _VERB or event.evidence.get("at") != moment:
            continue
        for key, answer in event.evidence.get("answers", {}).items():
            found.setdefault(key, Line(key, "", answer["holds"], answer["note"], event.actor))
    return found


def _event(session: Session, rollout: Rollout, moment: str, lines: list[Line]) -> Event:
    summary = summary_of(rollout)
    return Event(
        rollout=rollout.name,
        revision=rollout.revision,
        at_s=session.control.store.now(),
        actor=session.actor,
        verb=_VERB,
        before=summary,
        after=summary,
        reason=session.reason or f"{moment}: " + ", ".join(f"{x.key} {'yes' if x.holds else 'no'}" for x in lines),
        evidence={"at": moment, "answers": {line.key: {"holds": line.holds, "note": line.note} for line in lines}},
    )


_LEVELS: Final = {True: "SUCCESS", False: "ERROR", None: "WARNING"}
_MARKS: Final = {True: "✓", False: "✗", None: "?"}


def _show(session: Session, lines: Iterable[Line]) -> None:
    for line in lines:
        by = "" if line.by == "machine" else f" [{line.by}]"
        note = f" – {line.note}" if line.note else ""
        session.say(_LEVELS[line.holds], f"{_MARKS[line.holds]} {line.text}{note}{by}")


def _verdict(session: Session, moment: str, lines: list[Line]) -> int:
    broken = [line.key for line in lines if line.holds is False]
    # What only a machine could tell, and cannot yet, is nobody's to answer.
    unanswered = [line.key for line in lines if line.holds is None and line.by != "machine"]
    if broken:
        session.say("ERROR", f"no-go at {moment}: {', '.join(broken)}")
        return STOPPED
    if unanswered:
        session.say("WARNING", f"open at {moment}: {', '.join(unanswered)}")
        return NEEDS_A_HUMAN
    session.say("SUCCESS", f"go at {moment}")
    return FINE
