"""
The status of a rollout on one screen: where it stands, what it does, who serves it, what happened last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .._core.plan.fields import duration_text, percent
from .session import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._core.lifecycle.rollout import Rollout

_MARKS: Final = {"completed": "✔", "in_progress": "●", "pending": "○"}
_STAGE_STYLES: Final = {"completed": "green", "in_progress": "bold cyan", "pending": "dim"}
# Two polls that failed: from then on it is worth a line.
_STALE_S: Final = 2.0
_SILENT_JUDGE_S: Final = 15.0
_PHASE_STYLES: Final = {
    "progressing": "bold cyan",
    "baking": "bold cyan",
    "completed": "bold green",
    "holding": "bold yellow",
    "paused": "bold yellow",
    "rolled_back": "bold red",
    "locked": "bold white on red",
}


def screen(data: Mapping[str, Any]) -> Group:
    """*data* of ``status.status_of`` for a person."""
    parts: list[Any] = [_headline(data), Text()]
    if data["stages"]:
        parts += [_stage_line(data["stages"]), Text()]
    parts += [_versions(data), Text()]
    if data["criteria"] or data["guardrails"]:
        parts += [_limits(data), Text()]
    if data["judge"]:
        parts += [_judge(data["judge"], data["stable"]), Text()]
    parts.append(_workers(data))
    if data["events"]:
        parts += [Text(), _events(data["events"])]
    return Group(*parts)


def overview(data: Sequence[Mapping[str, Any]]) -> Table:
    """Several rollouts for a person, a line each."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("Rollout", style="bold")
    table.add_column("Phase")
    for name in ("set", "actual", "stage", "requests", "canary errors", "p95 ms"):
        table.add_column(name, justify="right")
    for name in ("health", "workers"):
        table.add_column(name)
    for one in data:
        table.add_row(*_overview(one))
    return table


def _overview(one: Mapping[str, Any]) -> list[Any]:  # Any: text, styled or not
    sides = list(one["versions"].values())
    n = sum(side["request_count"] for side in sides)
    canaries = [side for name, side in one["versions"].items() if name != one["stable"]]
    worst = max(canaries, key=lambda side: (side["error_rate"], side["p95_response_time_ms"]))
    live = [worker for worker in one["workers"] if not worker["is_silent"]]
    current = sum(worker["revision"] == one["revision"] for worker in live)
    reached = next((stage["stage"] for stage in one["stages"] if stage["status"] == "in_progress"), "–")
    return [
        one["rollout"],
        _phase(one["phase"], one["phase_reason"]),
        f"{one['weight']:g} %",
        f"{one['actual']:.1f} %" if n else "–",
        f"{reached} of {len(one['stages'])}" if one["stages"] else "–",
        f"{n:,}",
        f"{worst['error_rate']:.2%}" if worst["request_count"] else "–",
        f"{worst['p95_response_time_ms']:.1f}" if worst["request_count"] else "–",
        _health(worst),
        Text(f"{current} of {len(live)}", style="green" if live and current == len(live) else "yellow"),
    ]


def _headline(data: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    canary = " + ".join(f"{name} {share:g} %" for name, share in data["canary"].items())
    if len(data["canary"]) == 1:
        canary = next(iter(data["canary"]))
    rows = (
        ("Rollout", Text(data["rollout"], style="bold")),
        ("Phase", _phase(data["phase"], data["phase_reason"])),
        ("Versions", f"{data['stable']} → {canary}"),
        ("Weight", f"set {data['weight']:g} %   actual {data['actual']:.1f} % of the last {_ago(data['window_s'])}"),
        ("Revision", f"{data['revision']}   {data['store']}"),
    )
    for name, value in rows:
        table.add_row(Text(name, style="dim"), value)
    return table


def _stage_line(found: Sequence[Mapping[str, Any]]) -> Text:
    line = Text.assemble(("Stages    ", "dim"))
    for stage in found:
        line.append(f"{_MARKS[stage['status']]} {stage['weight']:g} %   ", style=_STAGE_STYLES[stage["status"]])
    return line


def _versions(data: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("Version")
    for name in ("requests", "errors", "error rate", "p50 ms", "p95 ms", "p99 ms", "health"):
        table.add_column(name, justify="right")
    for name, side in data["versions"].items():
        n = side["request_count"]
        table.add_row(
            name,
            f"{n:,}",
            f"{side['error_count']:,}",
            f"{side['error_rate']:.2%}" if n else "–",
            *(f"{side[f'{q}_response_time_ms']:.1f}" if n else "–" for q in ("p50", "p95", "p99")),
            _health(side),
        )
    return table


def _health(side: Mapping[str, Any]) -> Text:
    if not side["request_count"]:
        return Text("? unknown", style="dim")
    if side["availability"] >= 0.99 and side["error_rate"] < 0.05:
        return Text("✔ healthy", style="green")
    return Text("✖ failing", style="red")


def _limits(data: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for title, found in (("Criteria", data["criteria"]), ("Guardrails", data["guardrails"])):
        periods = {one["metric"]: f" within {duration_text(one['limit'])}" for one in found if one["kind"] == "within"}
        for n, one in enumerate(one for one in found if one["kind"] != "within"):
            period = periods.get(one["metric"], "")
            mark = {True: Text("✔", "green"), False: Text("✖", "red"), None: Text("?", "dim")}[one["holds"]]
            now = "–" if one["value"] is None else f"now {_amount(one['metric'], one['kind'], one['value'])}"
            table.add_row(Text("" if n else title, "dim"), _limit(one, data["stable"]) + period, now, mark)
    return table


_VERDICTS: Final = {
    "pass": ("✔ may advance", "green"),
    "fail": ("✖ must go", "red"),
    "inconclusive": ("… not yet", "yellow"),
    "error": ("! cannot tell", "yellow"),
}


def _judge(found: Mapping[str, Any], stable: str) -> Table:
    """What the evidence says so far, and what it still lacks."""
    table = Table.grid(padding=(0, 2))
    word, style = _VERDICTS[found["verdict"]]
    verdict = Text(word, style)
    if found["ago_s"] > _SILENT_JUDGE_S:
        verdict.append(f"   last judged {_ago(found['ago_s'])} ago", "yellow")
    table.add_row(Text("Judge   ", "dim"), verdict)
    e = found["e"]
    worse = f"e-value {e['rollback']:.3g}, rolled back at {found['threshold']:,.0f} (α {found['alpha'] * 100:g} %)"
    table.add_row("", f"{found['version']} worse than {stable}: {worse}")
    safe = [f"{name.removeprefix('safe_')} {value:.3g}" for name, value in e.items() if name.startswith("safe_")]
    table.add_row("", f"shown to be safe: {', '.join(safe)}; each needs {found['promotion_threshold']:.3g}")
    lines = found["missing"] or ([found["reason"]] if found["verdict"] != "pass" else [])
    for line in lines:
        table.add_row("", Text(shown(line), "yellow"))
    return table


def _limit(one: Mapping[str, Any], stable: str) -> str:
    """``p95 ≤ v1 × 1.1``."""
    metric = one["metric"].replace("_", " ")
    amount = _amount(one["metric"], one["kind"], one["limit"])
    if one["kind"] == "max_increase":
        return f"{metric} ≤ {stable} + {amount}"
    if one["kind"] == "max_ratio":
        return f"{metric} ≤ {stable} × {one['limit']:g}"
    # The count is what trips, the maximum what still may be.
    sign = {"min": "≥", "count": "<"}.get(one["kind"], "≤")
    return f"{metric} {sign} {amount}"


def _amount(metric: str, kind: str, value: float) -> str:
    if kind == "max_ratio":
        return f"× {value:.2f}"
    if metric in ("p50", "p95", "p99"):
        return f"{value * 1000:,.4g} ms"
    if metric == "availability":
        return f"{value * 100:.4g} %"
    if metric == "error_rate":
        return f"{value * 100:.3g} {'points' if kind == 'max_increase' else '%'}"
    return f"{value:,g}"


def _workers(data: Mapping[str, Any]) -> Table:
    live = [worker for worker in data["workers"] if not worker["is_silent"]]
    current = sum(worker["revision"] == data["revision"] for worker in live)
    table = Table.grid(padding=(0, 2))
    head = Text("none is running", "yellow")
    if live:
        style = "green" if current == len(live) else "yellow"
        head = Text(f"{current} of {len(live)} at revision {data['revision']}", style)
    table.add_row(Text("Workers ", "dim"), head)
    for worker in data["workers"]:
        remark = _remark(worker, data["revision"])
        if remark:
            table.add_row("", Text(shown(f"{worker['id']}: {remark}"), "yellow"))
    return table


def _remark(worker: Mapping[str, Any], revision: int) -> str:
    """What is odd about a worker; empty for one that serves the revision in force."""
    remarks = []
    if worker["revision"] != revision:
        remarks.append(f"at revision {worker['revision']}")
    if worker["is_silent"]:
        remarks.append(f"silent for {_ago(worker['seen_s'])}")
    if worker["stale_s"] > _STALE_S:
        remarks.append(f"last in step with the store {_ago(worker['stale_s'])} before that")
    if worker["pinned"] is not None:
        remarks.append(f"its environment pins the weight to {worker['pinned']:g} %")
    if worker["note"]:
        remarks.append(worker["note"])
    return ", ".join(remarks)


def _events(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("Last events", "", "", "", ""):
        table.add_column(name)
    for event in found:
        ago = f"{_ago(event['ago_s'])} ago"
        table.add_row(ago, shown(event["actor"]), event["verb"], _step(event), shown(event["reason"]))
    return table


def history_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The audit trail for a person."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("When (UTC)", "Rollout", "Revision", "Who", "What", "Weight", "Why"):
        table.add_column(name, overflow="fold", no_wrap=name.startswith("When"))
    for row in rows:
        when = row["at"].replace("T", " ").rstrip("Z")
        who, why = shown(row["actor"]), shown(row["reason"])
        table.add_row(when, row["rollout"], str(row["revision"]), who, row["verb"], _step(row), why)
    return table


def _step(event: Mapping[str, Any]) -> str:
    return f"{event['from']:g} %" if event["from"] == event["to"] else f"{event['from']:g} → {event['to']:g} %"


def stages_table(listed: Sequence[Mapping[str, Any]]) -> Table:
    """The plan's stages for a person."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("", "Stage", "Weight", "Lasts", "Status"):
        table.add_column(name)
    for stage in listed:
        lasts = "until promoted" if stage["duration_s"] is None else duration_text(stage["duration_s"])
        if stage["approve"]:
            lasts += ", then approval"
        table.add_row(
            _MARKS[stage["status"]],
            str(stage["stage"]),
            f"{stage['weight']:g} %",
            lasts,
            stage["status"].replace("_", " "),
            style=_STAGE_STYLES[stage["status"]],
        )
    return table


def changed_line(before: Rollout, after: Rollout) -> Text:
    """``checkout: 10 % → 25 %   paused (manual)``."""
    text = Text(f"{after.name}: ")
    text.append(f"{percent(before.effective_ppm):g} % → {percent(after.effective_ppm):g} %", style="bold")
    return text.append("   ").append(_phase(after.phase, after.phase_reason))


def _phase(phase: str, reason: str) -> Text:
    text = Text(phase.replace("_", " "), style=_PHASE_STYLES.get(phase, "bold"))
    return text.append(f" ({shown(reason).replace('_', ' ')})", style="not bold") if reason else text


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
