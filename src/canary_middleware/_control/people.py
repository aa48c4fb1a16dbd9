"""
What only people can say of a rollout: bugs that they have seen, and feedback. It stands in the audit trail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.lifecycle import transitions
from .._core.lifecycle.progress import stage_began
from .._core.lifecycle.records import BEGINNINGS
from ..errors import ConfigError
from .findings import limit_test

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.lifecycle.records import Event
    from .._core.lifecycle.rollout import Rollout
    from .._core.plan.schema import Criteria, Criterion
    from ..stores.changes import Control
    from .findings import Kind, Test

SEVERITIES: Final = ("severe", "minor")
LONGEST_TEXT: Final = 1000
"""Characters; an audit trail is read line by line."""
LOOK_BACK: Final = 1000
"""Events of a rollout that are looked at."""
TRANSITIONS: Final[dict[str, Callable[[Rollout, str], Rollout]]] = {
    "rollback": transitions.roll_back,
    "pause": transitions.pause,
}
"""What a guardrail's action does to a rollout, at once; other actions do nothing to it."""
METRICS: Final = {"bug": "severe_bugs", "feedback": "feedback"}
_AUTOMATION: Final = frozenset({"controller", "guardrail"})


class Report(NamedTuple):
    """
    What a person reports.

    Attributes:
        verb: ``bug`` or ``feedback``.
        severity: ``severe`` or ``minor`` of a bug, None of feedback.
    """

    verb: str
    text: str
    severity: str | None = None

    @property
    def is_severe(self) -> bool:
        """Whether it counts against ``severe_bugs``."""
        return self.verb == "bug" and self.severity == "severe"

    @property
    def title(self) -> str:
        """``severe bug: the total is wrong``."""
        return f"{self.severity} bug: {self.text}" if self.verb == "bug" else self.text

    @property
    def evidence(self) -> dict[str, Any]:
        """The same for machines."""
        return {"text": self.text} if self.severity is None else {"severity": self.severity, "text": self.text}


def report_of(verb: str, text: str, severity: str | None = None) -> Report:
    """
    The report with *text* as one line that a terminal may show: an escape could hide a line of the audit trail.

    Raises:
        ConfigError: there is no text, or too much.
    """
    line = " ".join("".join(letter if letter.isprintable() or letter.isspace() else "?" for letter in text).split())
    if not line:
        raise ConfigError(f"the text is {text!r}: say in a sentence what {'is wrong' if verb == 'bug' else 'you saw'}")
    if len(line) > LONGEST_TEXT:
        raise ConfigError(f"the text has {len(line)} characters: must have {LONGEST_TEXT} at most")
    return Report(verb, line, severity)


def keep(control: Control, rollout: Rollout, report: Report, actor: str) -> Event:
    """Write *report* into the audit trail. It changes nothing by itself. Raises StoreUnavailable."""
    event = control.event(rollout, rollout, report.verb, actor, report.title, report.evidence)
    control.store.log(event)
    return event


def human_findings(
    events: Sequence[Event], criteria: Criteria, since_s: float, *, kind: Kind = "criterion"
) -> list[Test]:
    """
    What people's reports say of *criteria*'s ``severe_bugs`` and ``feedback``.

    Args:
        events: the rollout's audit trail, newest first.
        since_s: Unix seconds; older reports do not count. The stage's beginning for criteria, the run's for guardrails.
    Returns:
        one test per limit: a severe bug too many is a fail, missing feedback is inconclusive.
    """
    found = []
    for criterion in criteria.limits:
        if criterion.metric == "severe_bugs":
            found.append(_bugs(_since(events, criterion, since_s), criterion, kind))
        elif criterion.metric == "feedback":
            found.append(_feedback(_since(events, criterion, since_s), criterion, kind))
    return found


def findings_now(events: Sequence[Event], rollout: Rollout) -> list[Test]:
    """``human_findings`` of the plan's guardrails and of the criteria of the stage in force."""
    plan = rollout.plan
    stage = plan.stages[rollout.stage] if 0 <= rollout.stage < len(plan.stages) else None
    criteria = plan.criteria if stage is None or stage.criteria is None else stage.criteria
    began_s = next((event.at_s for event in events if event.verb in BEGINNINGS), 0.0)
    return [
        *human_findings(events, plan.guardrails, began_s, kind="guardrail"),
        *human_findings(events, criteria, stage_began(events)),
    ]


def tests_of(control: Control, rollout: Rollout, report: Report) -> list[Test]:
    """The limits that *report*, which was kept, counts for; those of guardrails first."""
    if report.verb == "bug" and not report.is_severe:
        return []
    events = control.store.history(rollout.name, LOOK_BACK)
    return [test for test in findings_now(events, rollout) if test["name"].startswith(f"{METRICS[report.verb]} ")]


def to_do(tests: Sequence[Test]) -> Test | None:
    """The broken guardrail that asks for a change of the rollout, if there is one."""
    for test in tests:
        if test["kind"] == "guardrail" and test["verdict"] == "fail" and test["action"] in TRANSITIONS:
            return test
    return None


def obstacle(rollout: Rollout) -> str | None:
    """Why nothing is done to *rollout* although a guardrail is broken."""
    if rollout.is_latched:
        return f"{rollout.name} is {rollout.phase.replace('_', ' ')} already"
    return None if rollout.plan.enforce else "`enforce` is false in the plan, which makes it a dry run"


def _since(events: Sequence[Event], criterion: Criterion, since_s: float) -> list[Event]:
    """The events that count. Who resumes a rollout that a bug has paused knows of that bug."""
    found = [event for event in events if event.at_s >= since_s]
    if criterion.action == "pause":
        for n, event in enumerate(found):
            if event.verb == "resume" and event.actor not in _AUTOMATION:
                return found[:n]
    return found


def _bugs(events: Sequence[Event], criterion: Criterion, kind: Kind) -> Test:
    bugs = [event for event in events if event.verb == "bug" and event.evidence.get("severity") == "severe"]
    most = criterion.limit("max") or 0.0
    if len(bugs) <= most:
        return limit_test(criterion, "max", kind, "pass", len(bugs))
    latest = bugs[0]
    count = "a severe bug was" if len(bugs) == 1 else f"{len(bugs)} severe bugs were"
    sentence = f"{count} reported, {most:g} may be; by {latest.actor}: {latest.evidence.get('text', '')}"
    return limit_test(criterion, "max", kind, "fail", len(bugs), sentence)


def _feedback(events: Sequence[Event], criterion: Criterion, kind: Kind) -> Test:
    given = sum(event.verb == "feedback" for event in events)
    least = criterion.limit("min") or 0.0
    if given >= least:
        return limit_test(criterion, "min", kind, "pass", given)
    what = "somebody's feedback" if least == 1 else f"feedback {least:g} times, {given} until now"
    return limit_test(criterion, "min", kind, "inconclusive", given, f'{what}: type `canary report feedback "…"`')
