"""
The verbs that only look: status, history, explain, export.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from rich.live import Live

from .._core.assignment.bucketing import bucket_of
from .._core.lifecycle.rollout import Router, Variants, entry_weight
from .._core.plan.fields import parse_duration, percent
from .._views.export import export_document
from .._views.status import event_of, stages_of, status_of
from ..errors import CanaryError, StoreUnavailable
from .completion import rollout_names
from .screen import history_table, overview, screen, stages_table
from .session import FINE, NEEDS_A_HUMAN, STOPPED, TIMEOUT, fail, line, verb

if TYPE_CHECKING:
    from .._core.lifecycle.rollout import Rollout
    from .session import Session

# The screen is read by people; twice a second is as fast as figures change for them.
_REFRESH_S: Final = 0.5
_argument = click.argument("rollout", required=False, shell_complete=rollout_names)
_PHASES: Final = ("idle", "progressing", "holding", "paused", "baking", "completed", "rolled_back", "locked")


@click.command()
@_argument
@click.option("--watch", "-w", is_flag=True, help="Stay, and show changes as they happen.")
@click.option("--wait-for", type=click.Choice(_PHASES), help="Wait until it is in that phase.")
@click.option("--timeout", default="1h", show_default=True, help='How long to wait for it, such as "90s" or "2h".')
@verb
def status(session: Session, rollout: str | None, watch: bool, wait_for: str | None, timeout: str) -> None:
    """Where a rollout stands, on one screen; without a name, all of them, a line each."""
    if wait_for is not None:
        rollout = _wait_for(session, session.rollout(rollout).name, wait_for, parse_duration(timeout, "--timeout"))
    names = [rollout] if rollout is not None else session.control.names()
    if not names:
        session.rollout(None)  # says that there are none
    if watch:
        _watch(session, names)
    found = [session.control.rollout(name) for name in names]
    data = [status_of(session.control, one) for one in found]
    session.answer(data[0] if len(data) == 1 else data, lambda: _screens(data))
    raise SystemExit(exit_code(found))


def _screens(data: list[dict[str, Any]]) -> Any:  # Any: a rich renderable
    return screen(data[0]) if len(data) == 1 else overview(data)


def exit_code(rollouts: list[Rollout]) -> int:
    """What ``status`` ends with: the worst of all rollouts."""
    if any(rollout.is_latched for rollout in rollouts):
        return STOPPED
    waits = (r.phase == "paused" or (r.phase == "holding" and r.phase_reason == "approval") for r in rollouts)
    return NEEDS_A_HUMAN if any(waits) else FINE


def _watch(session: Session, names: list[str]) -> NoReturn:
    """Until the person leaves. A store that is away is said so, and asked again."""
    try:
        if session.as_json:
            _watch_json(session, names)
        with Live(_look(session, names), console=session.console, auto_refresh=False) as live:
            while True:
                _sleep(_REFRESH_S)
                live.update(_look(session, names), refresh=True)
    except KeyboardInterrupt:
        raise SystemExit(FINE) from None


def _look(session: Session, names: list[str]) -> Any:  # Any: a rich renderable
    try:
        return _screens([status_of(session.control, session.control.rollout(name)) for name in names])
    except StoreUnavailable as error:
        return line("ERROR", str(error))


def _watch_json(session: Session, names: list[str]) -> NoReturn:
    """One line of JSON for every look that differs from the last in more than its ages."""
    last: dict[str, tuple[int, Any]] = {}
    while True:
        for name in names:
            data = status_of(session.control, session.control.rollout(name))
            key = (data["revision"], {v: side["request_count"] for v, side in data["versions"].items()})
            if last.get(name) != key:
                last[name] = key
                click.echo(json.dumps(data))
        _sleep(_REFRESH_S)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _wait_for(session: Session, name: str, phase: str, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        found = session.control.rollout(name)
        if found.phase == phase:
            return name
        if found.is_latched:
            fail(f"{name} is {found.phase} ({found.phase_reason}): it will not become {phase} by itself", STOPPED)
        if time.monotonic() >= deadline:
            fail(f"{name} is still {found.phase} after {timeout_s:g} s", TIMEOUT)
        _sleep(min(_REFRESH_S, max(0.0, deadline - time.monotonic())))


def show_stages(session: Session, rollout: Rollout) -> None:
    """The plan's stages and where the rollout stands among them."""
    listed = stages_of(rollout)
    if not listed:
        session.say("INFO", f"the plan of {rollout.name} has no stages: `canary set` moves its weight")
    session.answer(listed, lambda: stages_table(listed))


@click.command()
@_argument
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many lines, newest first.")
@verb
def history(session: Session, rollout: str | None, limit: int) -> None:
    """The audit trail: who, when, from, to, why."""
    if rollout is not None:
        session.rollout(rollout)
    store = session.control.store
    now = store.now()
    rows = [event_of(event, now) for event in store.history(rollout, limit)]
    session.answer(rows, lambda: history_table(rows))


@click.command()
@click.argument("user")
@_argument
@verb
def explain(session: Session, user: str, rollout: str | None) -> None:
    """Which version USER gets, and from which weight on the hash gives it the canary."""
    found = session.rollout(rollout)
    if not user:
        fail("an empty identity has no version of its own: stable serves it", NEEDS_A_HUMAN)
    router = Router(found, Variants(), {})
    assignment = router.assign(user)
    bucket = bucket_of(router.point(user))
    weight = percent(found.effective_ppm)
    data = {
        "rollout": found.name,
        "user": user,
        "version": assignment.version,
        "role": assignment.role,
        "reason": assignment.reason,
        "bucket": bucket,
        "weight": weight,
        "enters_at": entry_weight(bucket),
        "canary": router.canary_version(user),
    }
    session.answer(
        data,
        lambda: (
            f"{user} gets {assignment.version} ({assignment.reason.replace('_', ' ')}).\n"
            f"Bucket {bucket:,} of 1,000,000: {data['canary']} from a weight of {entry_weight(bucket):.4f} % on; "
            f"the weight is {weight:g} %."
        ),
    )


@click.command()
@_argument
@verb
def export(session: Session, rollout: str | None) -> None:
    """Plan and state of one rollout, or of all, as one JSON document."""
    names = [session.rollout(rollout).name] if rollout is not None else session.control.names()
    documents = {}
    problems = []
    for name in names:
        try:
            documents[name] = export_document(session.control, session.control.rollout(name))
        except StoreUnavailable:
            raise
        except CanaryError as error:
            problems.append(f"{name}: {error}")
    session.answer(documents[names[0]] if len(names) == 1 and not problems else documents)
    if problems:
        fail("; ".join(problems), NEEDS_A_HUMAN)


FIRST: Final = (status,)
LATER: Final = (history, explain, export)
