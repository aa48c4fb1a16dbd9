"""
A report as one page: no script, nothing from elsewhere, readable on a phone, light and dark.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from .plots import plots
from .words import COLUMNS, cells, decided, evidence_line, headline, missing, people, title

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #fff; --card: #f6f7f9; --rule: #dde2e8;
  --stable: #2a6fdb; --canary: #c2570c; --other: #7a3fc1; --third: #0f766e; --safe: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa6b5; --paper: #12161c; --card: #1a2029;
  --rule: #2c3440; --stable: #7db0ff; --canary: #ffa25c; --other: #c9a2ff; --third: #5eead4; --safe: #5fd38a;
  --bad: #ff8a8a; } }
* { box-sizing: border-box } body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem;
  background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .25rem }
h2 { font-size: 1.1rem; margin: 0 0 .5rem } .soft { color: var(--soft) }
.phase { font-size: 1.15rem; font-weight: 600 }
.rolled_back, .locked { color: var(--bad) } .completed { color: var(--safe) }
section { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: 1rem; margin: 1rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .92rem } th { font-weight: 500; color: var(--soft) } th, td { padding: .25rem .6rem; text-align: right;
  white-space: nowrap } th:first-child, td:first-child { text-align: left; padding-left: 0 }
.decision { margin: .6rem 0 0; font-weight: 600 } .plots { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)) } figure { margin: 0 }
figcaption { font-weight: 600; font-size: .95rem } svg { width: 100%; height: auto; display: block }
.grid { stroke: var(--rule) } .tick, .mark { font-size: 12px; fill: var(--soft) } .mark { fill: var(--bad) }
.limit { stroke: var(--bad); stroke-dasharray: 6 4 } .line { fill: none; stroke-width: 2; stroke-linejoin: round }
.band { stroke: none; opacity: .18 } .line.stable { stroke: var(--stable); stroke-dasharray: 7 3 }
.band.stable { fill: var(--stable) } .line.canary { stroke: var(--canary) } .band.canary { fill: var(--canary) }
.line.other { stroke: var(--other); stroke-dasharray: 3 3 } .band.other { fill: var(--other) }
.line.third { stroke: var(--third); stroke-dasharray: 9 3 2 3 } .band.third { fill: var(--third) }
.line.safe { stroke: var(--safe); stroke-dasharray: 2 3 } .line.safer { stroke: var(--safe); stroke-dasharray: 10 4 }
.legend { font-size: .82rem; color: var(--soft); display: flex; flex-wrap: wrap; gap: .2rem 1rem }
.legend svg { display: inline-block; width: 26px; height: 8px } ol, ul { margin: .3rem 0; padding-left: 1.2rem }
li { overflow-wrap: anywhere } code { font-size: .9em }
"""


def page(report: Mapping[str, Any]) -> str:
    """*report* as a whole HTML document."""
    return "".join(_page(report))


def _page(report: Mapping[str, Any]) -> Iterator[str]:
    name = escape(report["rollout"])
    versions = f"{escape(report['stable'])} → {escape(' + '.join(report['canaries']))}"
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Rollout {name}</title><style>{_STYLE}</style></head><body>"
    yield f'<header><h1>Rollout {name}: {versions}</h1><p class="phase {escape(report["phase"])}">'
    yield f'{escape(headline(report))}</p><p class="soft">As of {escape(report["made_at"])}'
    yield f", begun {escape(report['began_at'])}</p></header>" if report["began_at"] else "</p></header>"
    if report["remark"]:
        yield f"<section><p>{escape(report['remark'])}</p></section>"
    if missing(report):
        yield f"<section><h2>What is missing</h2>{_list(missing(report))}</section>"
    found = plots(report)
    if found:
        yield f'<section><div class="plots">{"".join(found)}</div></section>'
    for stage in report["stages"]:
        yield f"<section><h2>{escape(title(stage))}</h2>{_table(stage)}{_decision(stage)}</section>"
    if people(report):
        said = [f"{event['at']} {event['actor']}: {event['reason']}" for event in people(report)]
        yield f"<section><h2>What people say</h2>{_list(said)}</section>"
    events = [f"{event['at']} {decided(event)}" for event in report["events"]]
    yield f"<section><h2>What happened</h2>{_list(events)}</section></body></html>\n"


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(stage: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    rows = (
        "".join(f"<td>{escape(cell)}</td>" for cell in cells(version, side))
        for version, side in stage["versions"].items()
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _decision(stage: Mapping[str, Any]) -> str:
    decision = stage["decision"]
    if decision is None:
        return ""
    line = evidence_line(decision)
    style = "rolled_back" if decision["verb"] in ("rollback", "abort") else ""
    more = "" if line is None else f'<p class="soft">{escape(line)}</p>'
    return f'<p class="decision {style}">{escape(decided(decision))}</p>{more}'
