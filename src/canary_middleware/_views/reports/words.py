"""
A report in words: Markdown for a ticket, and the pieces that the other forms share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COLUMNS: Final = ("version", "requests", "failures", "error rate", "between", "p50", "p95", "p99")


def cells(version: str, side: Mapping[str, Any]) -> tuple[str, ...]:
    """One version's line of a stage, under COLUMNS."""
    if not side["requests"]:
        return version, "0", "0", "–", "–", "–", "–", "–"
    low, high = side["error_rate_low"], side["error_rate_high"]
    return (
        version,
        f"{side['requests']:,}",
        f"{side['failures']:,}",
        f"{side['error_rate']:.2%}",
        f"{low:.2%} to {high:.2%}",
        *(time_text(side[f"{name}_s"]) for name in ("p50", "p95", "p99")),
    )


def time_text(seconds: float | None) -> str:
    """``85 ms``; a dash for nothing."""
    return "–" if seconds is None else f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def lasting(seconds: float) -> str:
    """``3.2 h``."""
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def title(stage: Mapping[str, Any]) -> str:
    """``Stage 2, 50 %: 3.2 h, over``."""
    weight = "" if stage["weight"] is None else f", {stage['weight']:g} %"
    state = "in force" if stage["to"] is None else "over"
    return f"Stage {stage['stage']}{weight}: {lasting(stage['seconds'])}, {state}"


def evidence_line(decision: Mapping[str, Any]) -> str | None:
    """The e-values behind a decision in a line; None where it has none, as a person's."""
    e = decision["evidence"].get("e")
    if not e:
        return None
    evidence = decision["evidence"]
    worse = f"worse than stable {e['rollback']:.3g} (rolled back at {evidence['threshold']:,.0f})"
    safe = ", ".join(
        f"{name.removeprefix('safe_')} {value:.3g}" for name, value in e.items() if name.startswith("safe_")
    )
    return f"e-values: {worse}; shown safe: {safe} (each needs {evidence['promotion_threshold']:.3g})"


def decided(decision: Mapping[str, Any]) -> str:
    """``controller advance, 10 → 50 %: why``."""
    move = f", {decision['from']:g} → {decision['to']:g} %" if decision["from"] != decision["to"] else ""
    why = f": {decision['reason']}" if decision["reason"] else ""
    return f"{decision['actor']} {decision['verb']}{move}{why}"


def headline(report: Mapping[str, Any]) -> str:
    """``progressing at 10 %``."""
    why = f" ({report['phase_reason']})" if report["phase_reason"] else ""
    return f"{report['phase'].replace('_', ' ')}{why} at {report['weight']:g} %"


def missing(report: Mapping[str, Any]) -> list[str]:
    """What the stage in force still waits for."""
    judge = report["judge"]
    return [] if judge is None else list(judge["missing"])


def people(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What people reported: bugs and feedback."""
    return [event for event in report["events"] if event["verb"] in ("bug", "feedback")]


def markdown(report: Mapping[str, Any]) -> str:
    """*report* for a ticket or a pull request."""
    return "\n".join(_markdown(report)) + "\n"


def _markdown(report: Mapping[str, Any]) -> Iterator[str]:
    versions = " + ".join(report["canaries"])
    yield f"# Rollout {_safe(report['rollout'])}: {_safe(report['stable'])} → {_safe(versions)}"
    yield ""
    yield f"**{_safe(headline(report))}**, {report['made_at']}"
    if report["remark"]:
        yield f"\n> {_safe(report['remark'])}"
    for stage in report["stages"]:
        yield f"\n## {title(stage)}\n"
        yield "| " + " | ".join(COLUMNS) + " |"
        yield "|---" + "|---:" * (len(COLUMNS) - 1) + "|"
        for version, side in stage["versions"].items():
            yield "| " + " | ".join(_safe(cell) for cell in cells(version, side)) + " |"
        decision = stage["decision"]
        if decision is not None:
            yield f"\nDecided: **{_safe(decided(decision))}**"
            line = evidence_line(decision)
            if line is not None:
                yield f"\n{line}"
    if missing(report):
        yield "\n## What is missing\n"
        yield from (f"- {_safe(line)}" for line in missing(report))
    if people(report):
        yield "\n## What people say\n"
        yield from (f"- {event['at']} {_safe(event['actor'])}: {_safe(event['reason'])}" for event in people(report))
    yield "\n## What happened\n"
    yield from (f"- {event['at']} {_safe(decided(event))}" for event in report["events"])


def _safe(text: str) -> str:
    """What people wrote is no markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text.replace("\n", " "))
