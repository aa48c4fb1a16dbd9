"""
``canary test replay FILE``: the judge's verdict on recorded ticks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .._control.replay import replay as judged
from .._core.evidence import settings_of
from .._core.plan.schema import RolloutPlan
from ..errors import ConfigError
from .session import FINE, NEEDS_A_HUMAN, STOPPED, line, verb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper

    from .._control.replay import Step
    from .session import Session

_CODES: Final = {"pass": FINE, "fail": STOPPED, "inconclusive": NEEDS_A_HUMAN, "error": NEEDS_A_HUMAN}
_LEVELS: Final = {"pass": "SUCCESS", "fail": "ERROR", "inconclusive": "INFO", "error": "WARNING"}


@click.command("replay")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, exists=True))
@click.argument("rollout", required=False)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Print every so many ticks.")
@verb
def replay(session: Session, file: str, rollout: str | None, every: int) -> None:
    """
    Judge recorded ticks: FILE holds one per line, as JSON; - is standard input. See docs/replay.md.

    Goes by the plan's criteria and guardrails where there is a plan, else by the usual margins. Ends with 0 (pass),
    1 (fail) or 3 (inconclusive) by the last verdict.
    """
    plan = _plan(session, rollout)
    settings = settings_of(plan, plan.canaries[0][0])
    last: Step | None = None
    with _opened(file) as lines:
        for step in judged(lines, settings):
            is_news = last is None or step.finding.verdict != last.finding.verdict
            last = step
            if is_news or step.line % every == 0:
                _tell(session, step)
            if step.finding.verdict == "fail":
                break
    if last is None:
        raise ConfigError(f"{file} holds no tick: must be one per line, as JSON")
    finding = last.finding
    session.say(_LEVELS[finding.verdict], f"{finding.verdict} after line {last.line}: {finding.reason}")
    raise SystemExit(_CODES[finding.verdict])


def _plan(session: Session, rollout: str | None) -> RolloutPlan:
    plan = session.plan
    if plan is None:
        return RolloutPlan(name=rollout or "replay")
    found = [one for one in plan.rollouts if rollout in (None, one.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.name for one in plan.rollouts)
    raise ConfigError(f"which rollout? The plan holds {names}: put its name behind the file")


class _opened:  # noqa: N801 - reads as a function
    """The lines of *file*, closed afterwards; standard input stays open."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._opened: TextIOWrapper | None = None

    def __enter__(self) -> Iterator[str]:
        if self._file == "-":
            return iter(sys.stdin)
        self._opened = Path(self._file).open(encoding="utf-8", errors="replace")
        return iter(self._opened)

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()


def _tell(session: Session, step: Step) -> None:
    finding, tick = step.finding, step.tick
    e: dict[str, Any] = finding.evidence["e"]
    if session.as_json:
        data = {"line": step.line, "at": tick.at_s, "verdict": finding.verdict, "reason": finding.reason}
        click.echo(json.dumps({**data, "evidence": finding.evidence}))
        return
    safe = " ".join(
        f"{name.removeprefix('safe_')} {value:.3g}" for name, value in e.items() if name.startswith("safe_")
    )
    requests = finding.evidence["requests"]
    session.console.print(
        line(
            _LEVELS[finding.verdict],
            f"{tick.at_s:>12.0f}  {tick.weight_ppm / 10_000:>5g} %  canary {requests['canary']:>8,}  "
            f"worse {e['rollback']:>8.3g}  safe: {safe}  {finding.verdict}",
        )
    )
