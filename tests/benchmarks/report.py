"""The results as a table for people and as JSON for machines."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .result import Result

_HEADINGS = ("What", "Ours", "Peer", "Compared with", "Ratio", "Quartiles", "Target", "Met")


def show(results: Sequence[Result]) -> None:
    """A table on a terminal, aligned text elsewhere, and the count of figures met."""
    console = Console()
    rows = [_row(result) for result in results]
    if console.is_terminal:
        table = Table(*_HEADINGS, title="What our part of a request costs")
        for row in rows:
            table.add_row(*row[:-1], _coloured(row[-1]))
        console.print(table)
    else:
        _plain([_HEADINGS, *rows])
    for result in results:
        if result.problem is not None:
            print(f"not available: {result.figure.name}: {result.problem}")
    # A busy machine is slower for the larger code of the two: ratios grow with its load.
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    aimed = [result for result in results if result.figure.target is not None]
    print(f"{sum(result.is_met is True for result in aimed)} of {len(aimed)} figures met")


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One object per figure, with plain numbers."""
    return [
        {
            "name": result.figure.name,
            "title": result.figure.title,
            "compared_with": result.figure.peer,
            "unit": result.unit,
            "ours": result.ours,
            "peer": result.peer,
            "value": result.value,
            "quartiles": [result.low, result.high],
            "rounds": result.rounds,
            "target": result.figure.target,
            "met": result.is_met,
            "problem": result.problem,
        }
        for result in results
    ]


def _row(result: Result) -> tuple[str, ...]:
    figure = result.figure
    if result.problem is not None:
        return (figure.title, "", "", figure.peer, "not available", "", _target(result), "?")
    met = {True: "yes", False: "NO", None: ""}[result.is_met]
    ours = f"{result.ours:.3g} {result.unit}"
    if result.peer is None:
        return (figure.title, ours, "", figure.peer, "", "", _target(result), met)
    return (
        figure.title,
        ours,
        f"{result.peer:.3g} {result.unit}",
        figure.peer,
        _ratio(result.value),
        f"{_ratio(result.low)} … {_ratio(result.high)}",
        _target(result),
        met,
    )


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _target(result: Result) -> str:
    target = result.figure.target
    if target is None:
        return ""
    return f"≤ {target:.2f}" if result.figure.unit == "×" else "0 bytes"


def _coloured(met: str) -> str:
    colour = {"yes": "green", "NO": "bold red"}.get(met)
    return f"[{colour}]{met}[/]" if colour else met


def _plain(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
