"""
Limits that the judge of requests knows nothing of, and one finding of all together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .._core.lifecycle.progress import Finding
    from .._core.plan.schema import Criterion

Test = dict[str, Any]
"""name, kind, verdict, value, limit, sentence and action of one limit, as in a finding's evidence."""
Kind = Literal["criterion", "guardrail"]
Verdict = Literal["pass", "fail", "inconclusive"]


def limit_test(
    criterion: Criterion, bound: str, kind: Kind, verdict: Verdict, value: float | None, sentence: str = ""
) -> Test:
    """
    What is known of one limit.

    Args:
        bound: which of the criterion's limits: ``max``, ``min`` …
        value: what is compared with the limit; None where there is nothing yet.
        sentence: why, for people.
    """
    limit = criterion.limit(bound) or 0.0
    return {
        "name": f"{criterion.metric} {bound} {limit:g}",
        "kind": kind,
        "verdict": verdict,
        "value": None if value is None else float(f"{value:.6g}"),
        "limit": limit,
        "sentence": sentence,
        "action": criterion.action,
    }


def with_tests(finding: Finding, tests: Sequence[Test]) -> Finding:
    """
    *finding* of the judge, and what further *tests* say.

    The gravest wins: a limit that is broken and rolls back, one that pauses, then what the judge cannot tell, then what
    is missing. A broken criterion that only warns keeps the stage from ending, as the judge's own do.
    """
    if not tests:
        return finding
    missing = [*finding.evidence.get("missing", ()), *_missing(tests)]
    evidence = {**finding.evidence, "missing": missing, "tests": [*finding.evidence.get("tests", ()), *tests]}
    found = finding._replace(evidence=evidence)
    actions: tuple[Literal["rollback", "pause"], ...] = ("rollback", "pause")
    for action in actions:
        if finding.verdict == "fail" and finding.action == action:
            return found
        for test in tests:
            if test["verdict"] == "fail" and test["action"] == action:
                return found._replace(verdict="fail", reason=test["sentence"], action=action)
    if finding.verdict == "pass" and missing:
        return found._replace(verdict="inconclusive", reason=missing[0])
    return found


def _missing(tests: Sequence[Test]) -> Iterator[str]:
    """What a stage waits for, in sentences. Guardrails hold until they are broken."""
    for test in tests:
        if test["kind"] == "criterion" and test["verdict"] != "pass":
            yield test["sentence"]
