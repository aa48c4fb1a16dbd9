"""The table: one line for each figure, ours with its target, the other rules beside it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from statistics import median
from typing import TYPE_CHECKING, Final

from .play import OURS
from .rules import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cases import Line
    from .play import Outcome

NAMES: Final = (OURS, *RULES)
_COMMON: Final = 0.5
_NEARLY_ALL: Final = 0.995


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    What one rule came to in one line.

    Attributes:
        value: a share, or the median of canary requests; infinite where fewer than half are caught.
        share: where requests are counted, the share of rollouts that was caught.
        early: where a regression comes late, the share of rollouts with an alarm before it.
    """

    value: float
    share: float = 1.0
    early: float = 0.0


def figure(line: Line, name: str, outcomes: Sequence[Outcome]) -> Figure | None:
    """What *name* came to in *line*; None where the rule has no say in it."""
    if line.measure == "promoted":
        if any(name not in outcome.promoted for outcome in outcomes):
            return None
        return Figure(value=_mean([outcome.promoted[name] for outcome in outcomes]))
    alarms = [outcome.alarms[name] for outcome in outcomes]
    caught = [isfinite(alarm.requests) for alarm in alarms]
    if line.measure == "false":
        return Figure(value=_mean(caught))
    return Figure(
        value=median(alarm.requests for alarm in alarms),
        share=_mean(caught),
        early=_mean([alarm.is_early for alarm in alarms]),
    )


def _mean(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def is_met(line: Line, found: Figure) -> bool | None:
    """Whether the figure is what is asked for; None where nothing is."""
    if line.target is None:
        return None
    if line.is_least:
        return found.value >= line.target
    return found.value <= line.target and found.share >= line.share


def cell(line: Line, found: Figure | None) -> str:
    """The figure as it is shown."""
    if found is None:
        return "–"
    if line.measure != "caught":
        return percent(found.value)
    text = f"{found.value:,.0f}" if found.value < inf else "never"
    notes = [f"{percent(found.share)} found"] if 0 < found.share < _NEARLY_ALL else []
    notes += [f"{percent(found.early)} before"] if found.early else []
    return f"{text} ({', '.join(notes)})" if notes else text


def percent(share: float) -> str:
    """As ``0.3 %`` below five percent, as ``62 %`` above: more digits would be noise."""
    text = f"{100 * share:.{1 if share < 0.05 else 0}f}"
    return f"{text.removesuffix('.0')} %"


def ours(line: Line, found: Figure) -> str:
    """Our cell: the figure, what it must be, and whether it is."""
    met = is_met(line, found)
    if met is None:
        return cell(line, found)
    return f"{cell(line, found)} ({target(line)}) {'✓' if met else '✗'}"


def target(line: Line) -> str:
    """What our figure must be, as ``≤ 0.5 %``."""
    if line.target is None:
        return ""
    if line.measure == "caught":
        also = f", {percent(line.share)} found" if line.share > _COMMON else ""
        return f"≤ {line.target:,.0f}{also}"
    return f"{'≥' if line.is_least else '≤'} {percent(line.target)}"


def row(line: Line, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """One line of the table, cell by cell."""
    own = figure(line, OURS, outcomes)
    others = (cell(line, figure(line, name, outcomes)) for name in RULES)
    return (line.title, "" if own is None else ours(line, own), *others)


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """*rows* under their headings, in columns as wide as they need to be."""
    headings = ("", *NAMES)
    widths = [max(len(cells[column]) for cells in (headings, *rows)) for column in range(len(headings))]
    lines = [headings, tuple("-" * max(width, 3) for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)) + " |"
        for cells in lines
    )
