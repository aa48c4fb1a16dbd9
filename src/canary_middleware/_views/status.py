"""
Where a rollout stands, as plain data: what the command line, the admin API and reports show.

Read from the store alone; none of the app's code is needed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.lifecycle.records import BEGINNINGS, SILENT_S, finding_note
from .._core.plan.fields import percent
from .._core.tallies import from_plain, merge_plain
from ..stores._windows import place
from .limits import limits_of
from .summary import summarise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.lifecycle.records import Event, Worker
    from .._core.lifecycle.rollout import Rollout, Variants
    from .._core.ports import Store
    from .._core.tallies import Cell, Series
    from ..stores.changes import Control

WINDOW_S: Final = 300


def status_of(control: Control, rollout: Rollout, *, events: int = 5, window_s: int = WINDOW_S) -> dict[str, Any]:
    """
    All that one screen shows of *rollout*.

    Args:
        events: how many of the last lines of its audit trail.
        window_s: seconds of traffic behind the figures.
    Raises:
        StoreUnavailable: nothing can be said.
    """
    store = control.store
    now = store.now()
    figures = summarise(fleet_counts(store, int(now) - window_s).series, rollout.plan, float(window_s))
    workers = [_worker(worker, rollout, now) for worker in store.workers() if rollout.name in worker.revisions]
    return {
        **_state(rollout, figures),
        "store": store.url,
        "window_s": window_s,
        "judge": judge_of(store, rollout, now),
        "workers": workers,
        "events": [event_of(event, now) for event in store.history(rollout.name, events)],
    }


def status_here(rollout: Rollout, figures: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a Canary without a store: this process is all there is, and it keeps no audit trail."""
    return {
        **_state(rollout, figures),
        "store": None,
        "window_s": None,
        "judge": None,
        "workers": [],
        "events": [],
    }


def _state(rollout: Rollout, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rollout": rollout.name,
        "phase": rollout.phase,
        "phase_reason": rollout.phase_reason,
        "revision": rollout.revision,
        "weight": percent(rollout.effective_ppm),
        "actual": round(figures["comparison"]["traffic_split"]["canary_percentage"] * 100, 4),
        "stable": rollout.plan.stable,
        "canary": {name: percent(share) for name, share in rollout.plan.canaries},
        "stages": stages_of(rollout),
        **limits_of(rollout, figures),
        "versions": figures["versions"],
    }


def judge_of(store: Store, rollout: Rollout, now_s: float) -> dict[str, Any] | None:
    """
    What the judge last said of *rollout*'s present run, and how long ago; None where nothing moves or nobody judges.

    Returns:
        verdict, reason, ``e`` (the e-values by name), threshold (1/α, of a rollback), promotion_threshold (of safety),
        alpha, missing, requests, dispersion, version, ``ago_s``.
    """
    if rollout.phase not in ("progressing", "holding", "baking", "paused"):
        return None
    found = store.kept(finding_note(rollout.name))
    if found is None or found["run_s"] != next(
        (event.at_s for event in store.history(rollout.name, 1000) if event.verb in BEGINNINGS), 0.0
    ):
        return None
    said = {name: value for name, value in found.items() if name not in ("run_s", "at_s")}
    return {**said, "ago_s": round(max(0.0, now_s - found["at_s"]), 1)}


def stages_of(rollout: Rollout) -> list[dict[str, Any]]:
    """The plan's stages: number from 1, weight in percent, and completed, in_progress or pending."""
    return [
        {
            "stage": n + 1,
            "weight": percent(stage.weight_ppm),
            "duration_s": stage.duration_s if stage.duration_s is not None else rollout.plan.duration_s,
            "approve": stage.approve,
            "status": _stage_status(rollout, n),
        }
        for n, stage in enumerate(rollout.plan.stages)
    ]


def _stage_status(rollout: Rollout, n: int) -> str:
    if rollout.phase == "completed" or (n < rollout.stage and not rollout.is_latched):
        return "completed"
    return "in_progress" if n == rollout.stage and not rollout.is_latched else "pending"


class Fleet(NamedTuple):
    """
    What all workers have counted.

    Attributes:
        first_s: the Unix second in which the first window of it begins; None where nothing was counted.
    """

    series: dict[Series, Cell]
    first_s: int | None


def fleet_counts(store: Store, since_s: int, variants: Variants | None = None) -> Fleet:
    """The counts of all workers from Unix second *since_s* on; their variants are those of *variants*, if any."""
    total: dict[str, Any] = {}
    first_s = None
    for window_s, plain in store.counts(since_s):
        first_s = window_s if first_s is None else first_s
        merge_plain(total, plain)
    return Fleet(from_plain(total, variants), first_s)


def began_s(store: Store, rollout: str) -> int:
    """
    The Unix second from which on counts belong to the present run of *rollout*: its last start, retry or registration.

    Where those windows have been merged since it is the beginning of theirs; 0 where the beginning is not known.
    """
    begun = (event.at_s for event in store.history(rollout, 1000) if event.verb in BEGINNINGS)
    return place(int(next(begun, 0.0)), store.now()) or 0


def event_of(event: Event, now_s: float) -> dict[str, Any]:
    """One line of the audit trail; weights in percent."""
    return {
        "rollout": event.rollout,
        "revision": event.revision,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.at_s)),
        "ago_s": round(max(0.0, now_s - event.at_s), 1),
        "actor": event.actor,
        "verb": event.verb,
        "from": percent(event.before.get("weight_ppm", 0)),
        "to": percent(event.after.get("weight_ppm", 0)),
        "phase": event.after.get("phase", ""),
        "reason": event.reason,
        "evidence": dict(event.evidence),
    }


def _worker(worker: Worker, rollout: Rollout, now_s: float) -> dict[str, Any]:
    silent_s = max(0.0, now_s - worker.seen_s)
    pinned = worker.pinned.get(rollout.name)
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "revision": worker.revisions[rollout.name],
        "seen_s": round(silent_s, 1),
        "is_silent": silent_s > SILENT_S,
        "stale_s": round(worker.stale_s, 1),
        "pinned": None if pinned is None else percent(pinned),
        "note": worker.note,
    }
