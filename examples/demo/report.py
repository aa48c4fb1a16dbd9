"""
The figures as they are shown: tables, bars and sentences. Nothing here measures anything.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from . import figures
from .screen import COLOURS
from .steering import followed_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.otlp import OtlpReceiver, Span

    from .checks import Check
    from .climbing import Climb
    from .figures import Line
    from .service import Service
    from .steering import Run
    from .traffic import Answer

_BAR: Final = 32
VERSIONS: Final = ("v1", "v2")


def split(weight: float, answers: Sequence[Answer]) -> Table:
    """Asked and got as two bars; *weight* in percent."""
    users = {answer.user for answer in answers}
    on_canary = {answer.user for answer in answers if answer.version == "v2"}
    share = 100 * len(on_canary) / len(users)
    table = _grid()
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    table.add_row("asked", _bar(weight), f"{weight:.1f} %", "")
    table.add_row("got", _bar(share), f"{share:.1f} %", f"[dim]{len(on_canary):,} of {len(users):,} users on v2[/]")
    return table


def expectation(weight: float, users: int) -> str:
    """What a fair draw gives: the mean ± two standard deviations of a binomial."""
    mean = users * weight / 100
    margin = 2 * sqrt(mean * (1 - weight / 100))
    return (
        f"[dim]A hash of the user decides, so {users:,} users are a sample: {weight:g} % puts {mean - margin:.0f} to "
        f"{mean + margin:.0f} of them on v2, 19 times out of 20. The same users get the same versions in every run.[/]"
    )


def latencies(otlp: OtlpReceiver) -> Table:
    """Requests, errors and quantiles, in milliseconds, by endpoint and version."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("endpoint", no_wrap=True)
    for title in ("", "requests", "errors", "p50", "p95", "p99"):
        table.add_column(title, justify="right", no_wrap=True)
    for method, route in figures.endpoints(otlp):
        _add(table, [figures.line(otlp, version, method, route) for version in VERSIONS])
    table.add_row()
    _add(table, [figures.line(otlp, version) for version in VERSIONS], title="all endpoints", style="bold")
    return table


def spans(otlp: OtlpReceiver, roots: Sequence[Span]) -> Table:
    """Traces as they arrived: each of *roots*, its events, and the look-ups that were made below it."""
    table = _grid()
    for root in roots:
        table.add_row(*_cells(root, f"[dim]{root.trace_id[:8]}…[/]", root.name))
        for name in {event.name: None for event in root.events if event.name.startswith("canary.")}:
            table.add_row("", f"  [red]• {name}[/]", "[dim]event[/]")
        lookups = [span for span in otlp.spans(kind="CLIENT") if span.trace_id == root.trace_id]
        for span in sorted(lookups, key=lambda one: one.start_ns):
            failed = " [red]failed[/]" if span.status == "ERROR" else ""
            table.add_row(*_cells(span, "", f"  └ {span.name}{failed}"))
    return table


def rescue(canary: Line, answers: Sequence[Answer]) -> Table:
    """What v2 did, and what the users saw of it."""
    failed, rescued = sum(one.is_failed for one in answers), sum(one.is_fallback for one in answers)
    table = _grid()
    table.add_column()
    table.add_column(justify="right")
    table.add_row("v2 was asked", f"{canary.requests:,}", "times")
    table.add_row("it failed", f"[red]{canary.errors:,}[/]", "times [dim](its errors in the telemetry)[/]")
    table.add_row("v1 answered", f"[green]{rescued:,}[/]", "of those, in the same request")
    table.add_row("users saw", f"[bold {'red' if failed else 'green'}]{failed:,}[/]", "errors")
    return table


_TICK_S: Final = 0.1
_SLOW_TICK_S: Final = 0.25
_LEVELS: Final = " ▁▂▃▄▅▆▇█"


def timeline(run: Run) -> Text:
    """v2's share of the requests in each tenth of a second, and where each command was typed (▾) and returned (▴)."""
    marks = [(command.returned, "▴") for command in run.commands] + [(command.typed, "▾") for command in run.commands]
    legend = "v2's share, a tenth of a second per column; ▾ typed, ▴ acknowledged by both workers"
    return _share_over_time(run.answers, marks, legend, _TICK_S)


def climbed(climb: Climb) -> Text:
    """v2's share over time, and what the judge decided when, each with its reason."""
    began = climb.answers[0].begun
    marks = [(at, "▾" if event.actor != "controller" else "◆") for at, event in climb.events]
    legend = "v2's share, a quarter of a second per column; ▾ typed, ◆ decided by the judge"
    text = _share_over_time(climb.answers, marks, legend, _SLOW_TICK_S)
    for at, event in climb.events:
        after = f"{event.after['weight_ppm'] / 10_000:g} %"
        is_moved = event.before["weight_ppm"] != event.after["weight_ppm"]
        what = f"{event.verb} → {after if is_moved else event.after['phase']}"
        text.append(f"\n{at - began:5.1f} s  ", "dim")
        text.append(f"{event.actor} {what}", "bold red" if event.verb == "rollback" else "bold")
        if event.reason:
            text.append(f": {event.reason}")
    return text


def _share_over_time(answers: Sequence[Answer], marks: Sequence[tuple[float, str]], legend: str, tick_s: float) -> Text:
    begin = answers[0].begun
    count = int((answers[-1].begun - begin) / tick_s) + 1
    totals, canaries, row = [0] * count, [0] * count, [" "] * count
    for answer in answers:
        tick = int((answer.begun - begin) / tick_s)
        totals[tick] += 1
        canaries[tick] += answer.version == "v2" or answer.is_fallback
    for at, mark in marks:
        row[min(count - 1, max(0, int((at - begin) / tick_s)))] = mark
    bars = "".join(
        _LEVELS[min(8, ceil(8 * part / whole))] if whole else " " for part, whole in zip(canaries, totals, strict=True)
    )
    return Text.assemble((bars + "\n", COLOURS["v2"]), ("".join(row) + "\n", "bold"), (legend, "dim"))


def typed(service: Service, run: Run) -> Text:
    """Each command with what it printed, and when the split had followed."""
    text = Text()
    for number, command in enumerate(run.commands):
        quoted = " ".join(f'"{word}"' if " " in word else word for word in command.words)
        text.append(f"$ canary {quoted}\n", "bold")
        text.append("".join(f"  {line}\n" for line in command.output.splitlines()))
        settled_s = followed_s(service, run, number)
        text.append(f"  the last request by the old weight left {settled_s:.2f} s after the key press\n", "dim")
    text.rstrip()
    return text


def verdicts(checks: Sequence[Check]) -> Table:
    """One line per check."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for check in checks:
        mark = "[green]✓[/]" if check.holds else "[bold red]✗[/]"
        table.add_row(mark, check.says if check.holds else f"[red]{check.says}: no, {check.found}.[/]")
    return table


def _grid() -> Table:
    return Table.grid(padding=(0, 2, 0, 0))


def _bar(percent: float) -> Text:
    filled = max(1, round(_BAR * percent / 100)) if percent else 0
    return Text("▆" * filled, COLOURS["v2"]) + Text("─" * (_BAR - filled), COLOURS["v1"])


def _add(table: Table, lines: Sequence[Line], *, title: str | None = None, style: str = "") -> None:
    for number, line in enumerate(lines):
        name = (title or line.endpoint.removeprefix("/api/v2")) if number == 0 else ""
        errors = f"[red]{line.errors:,}[/]" if line.errors else "[dim]0[/]"
        table.add_row(
            name,
            f"[{COLOURS[line.version]}]{line.version}[/]",
            f"{line.requests:,}",
            errors,
            *(f"{1_000 * seconds:.1f}" if line.requests else "–" for seconds in (line.p50, line.p95, line.p99)),
            style=style,
        )


def _cells(span: Span, trace: str, name: str) -> tuple[str, str, str, str]:
    version = span.attributes.get("canary.version", "?")
    return (
        trace,
        name,
        f"[{COLOURS.get(version, 'red')}]canary.version={version}[/]",
        f"{1_000 * span.duration_s:.1f} ms",
    )
