"""
A report for a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .words import COLUMNS, cells, decided, evidence_line, headline, missing, people, title

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def screen(report: Mapping[str, Any], shown: Callable[[str], str]) -> Group:
    """
    *report* for a person at a terminal.

    Args:
        shown: makes of what people wrote what a terminal may show.
    """
    versions = f"{report['stable']} → {' + '.join(report['canaries'])}"
    parts: list[Any] = [
        Text.assemble((report["rollout"], "bold"), f"   {versions}   ", (shown(headline(report)), "bold"))
    ]
    if report["remark"]:
        parts.append(Text(shown(report["remark"]), "yellow"))
    for stage in report["stages"]:
        parts += [Text(), Text(title(stage), "bold cyan"), _versions(stage)]
        decision = stage["decision"]
        if decision is not None:
            style = "bold red" if decision["verb"] in ("rollback", "abort") else "bold"
            parts.append(Text(shown(decided(decision)), style))
            line = evidence_line(decision)
            if line is not None:
                parts.append(Text(line, "dim"))
    for name, lines in (
        ("Missing", missing(report)),
        ("People", [f"{event['actor']}: {event['reason']}" for event in people(report)]),
    ):
        if lines:
            parts += [Text(), Text(name, "dim"), *(Text(shown(line), "yellow") for line in lines)]
    return Group(*parts)


def _versions(stage: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "version" else "right")
    for version, side in stage["versions"].items():
        table.add_row(*cells(version, side))
    return table
