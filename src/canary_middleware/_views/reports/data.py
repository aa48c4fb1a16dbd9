"""
What a report says, as plain data: from the journal that the controller keeps, the audit trail and the plan.

Read from the store alone; none of the app's code is needed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from ..._control.recording_limits import radius
from ..._core.evidence.totals import Totals
from ..._core.lifecycle.records import BEGINNINGS
from ..._core.plan.fields import percent
from ...errors import ConfigError
from ..status import event_of, judge_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._core.lifecycle.records import Event
    from ..._core.lifecycle.rollout import Rollout
    from ...stores.changes import Control

ALPHA: Final = 0.05
"""Chance that an error rate's interval ever misses the truth, however often it is looked at."""
_EVENTS: Final = 1000
_OVER: Final = frozenset({"completed", "rolled_back", "locked"})
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def report_of(control: Control, rollout: Rollout, stage: int | None = None) -> dict[str, Any]:
    """
    The report of *rollout*'s present run.

    Args:
        stage: number from 1 of the only stage to report; None reports all that were entered.
    Returns:
        rollout, phase, weight, ``stages`` (each with versions, decision and events), ``points`` (the course), events,
        ``judge`` (what it says now) and ``remark``, where something is not there and who must do what.
    Raises:
        ConfigError: there was no such stage.
        StoreUnavailable: nothing can be said.
    """
    store = control.store
    now = store.now()
    events = _run(store.history(rollout.name, _EVENTS))
    journal = store.kept(f"journal:{rollout.name}") or {}
    # Of an older run: the controller has not looked at this one yet.
    began_s = events[0].at_s if events else 0.0
    entered = [one for one in journal.get("stages", ()) if one["began_s"] >= began_s - 1.0]
    stages = [_stage(rollout, one, events, now) for one in entered if stage in (None, one["stage"] + 1)]
    if stage is not None and not stages:
        known = ", ".join(str(one["stage"] + 1) for one in entered) or "none"
        raise ConfigError(f"stage {stage} of {rollout.name!r} was not entered in this run: there is {known}")
    return {
        "rollout": rollout.name,
        "phase": rollout.phase,
        "phase_reason": rollout.phase_reason,
        "weight": percent(rollout.effective_ppm),
        "stable": rollout.plan.stable,
        "canaries": [name for name, _ in rollout.plan.canaries],
        "made_at": _time(now),
        "began_at": _time(began_s) if events else None,
        "stages": stages,
        "points": [point for point in journal.get("points", ()) if point[0] >= began_s - 1.0],
        "events": [event_of(event, now) for event in events],
        "judge": judge_of(store, rollout, now),
        "remark": None if entered else _nothing(rollout),
    }


def _nothing(rollout: Rollout) -> str:
    if rollout.phase == "idle":
        return "it has not been started: `canary start`"
    return (
        "nobody has judged this run: let the service serve a request, or `canary run` where its workers have "
        "CANARY_CONTROLLER=off"
    )


def _run(history: Sequence[Event]) -> list[Event]:
    """The present run's events, oldest first."""
    found: list[Event] = []
    for event in history:
        found.append(event)
        if event.verb in BEGINNINGS:
            break
    return found[::-1]


def _stage(rollout: Rollout, entered: Mapping[str, Any], events: Sequence[Event], now: float) -> dict[str, Any]:
    ended = entered["ended_s"]
    if ended is None and rollout.phase in _OVER and events:
        ended = events[-1].at_s
    until = now if ended is None else ended
    inside = [event for event in events if entered["began_s"] < event.at_s <= until + 0.5]
    plan = rollout.plan.stages
    known = plan[entered["stage"]].weight_ppm if 0 <= entered["stage"] < len(plan) else None
    sides = {rollout.plan.stable: entered["stable"], **entered["canary"]}
    return {
        "stage": entered["stage"] + 1,
        "weight": None if known is None else percent(known),
        "from": _time(entered["began_s"]),
        "to": None if ended is None else _time(ended),
        "seconds": round(until - entered["began_s"], 1),
        "versions": {version: _side(side) for version, side in sides.items()},
        "events": [event_of(event, now) for event in inside],
        "decision": _decision(inside, now),
    }


def _decision(events: Sequence[Event], now: float) -> dict[str, Any] | None:
    """The last thing that moved the rollout in the stage, with its evidence; None where nothing did."""
    moves = [event for event in events if event.before != event.after]
    return event_of(moves[-1], now) if moves else None


def _side(plain: Mapping[str, Any]) -> dict[str, Any]:
    counts = [plain.get(key, 0) for key in ("requests", "failures", "unavailable")]
    durations = plain.get("durations", {})
    totals = Totals({"counts": counts, "durations": durations})
    low, high = interval(totals.requests, totals.failures)
    return {
        "requests": totals.requests,
        "failures": totals.failures,
        "error_rate": totals.error_rate,
        "error_rate_low": low,
        "error_rate_high": high,
        "availability": totals.availability,
        **{f"{name}_s": totals.quantile_s(q) for name, q in _QUANTILES.items()},
        "durations": durations,
    }


def interval(requests: int, failures: int) -> tuple[float, float]:
    """
    Between what the error rate lies, 19 to 1, at all looks at once: (0, 1) where there is nothing.

    An asymptotic confidence sequence (arXiv 2103.06476); few failures count as one more, so that none is not certainty.
    """
    if requests <= 0:
        return 0.0, 1.0
    rate = failures / requests
    careful = (failures + 1) / (requests + 2)
    width = radius(requests, careful * (1.0 - careful), ALPHA)
    return max(0.0, rate - width), min(1.0, rate + width)


def _time(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
