"""
Waiting until every live worker serves a revision: a change is not done when it is written.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.lifecycle.records import SILENT_S
from .._core.plan.fields import percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._core.lifecycle.records import Worker
    from .._core.lifecycle.rollout import Rollout
    from .._core.ports import Store

TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05


class Followers(NamedTuple):
    """
    The workers that serve *rollout*.

    Attributes:
        live, silent: those heard of within SILENT_S, and the others: killed, most likely.
    """

    rollout: str
    live: tuple[Worker, ...]
    silent: tuple[Worker, ...]

    def behind(self, revision: int) -> tuple[str, ...]:
        """The ids of those live ones that do not serve *revision* yet."""
        return _ids(worker for worker in self.live if worker.revisions[self.rollout] < revision)


def followers_of(store: Store, rollout: str) -> Followers:
    """Who serves *rollout*, by the workers' own reports."""
    now = store.now()
    workers = [worker for worker in store.workers() if rollout in worker.revisions]
    return Followers(
        rollout,
        live=tuple(worker for worker in workers if now - worker.seen_s <= SILENT_S),
        silent=tuple(worker for worker in workers if now - worker.seen_s > SILENT_S),
    )


class Acknowledgement(NamedTuple):
    """
    Who serves a revision.

    Attributes:
        served, missing: ids of live workers that do, and that do not yet.
        silent: ids of workers unheard for longer than SILENT_S: killed, most likely; nobody waits for them.
        pinned: ids of live workers whose environment pins the weight, whatever the store says.
        seconds: how long it took.
    """

    served: tuple[str, ...]
    missing: tuple[str, ...]
    silent: tuple[str, ...]
    pinned: tuple[str, ...]
    seconds: float

    def plain(self) -> dict[str, Any]:
        """The same, fit for JSON."""
        return {**self._asdict(), "seconds": round(self.seconds, 3)}

    def sentence(self, revision: int) -> str:
        """``4 of 4 workers at revision 15 after 0.31 s``, or which is missing."""
        total = len(self.served) + len(self.missing)
        text = f"{len(self.served)} of {total} workers at revision {revision} after {self.seconds:.2f} s"
        if not total:
            text = f"revision {revision} is stored; no worker is running"
        if self.missing:
            text += f"; missing: {', '.join(self.missing)}"
        if self.silent:
            text += f"; silent for over {SILENT_S:g} s, so not waited for: {', '.join(self.silent)}"
        return text


def change_of(before: Rollout, after: Rollout) -> dict[str, Any]:
    """What the command line and the admin API say of a change, fit for JSON; weights in percent."""
    return {
        "rollout": after.name,
        "revision": after.revision,
        "phase": after.phase,
        "phase_reason": after.phase_reason,
        "before": percent(before.effective_ppm),
        "weight": percent(after.effective_ppm),
    }


def wait_for_workers(
    store: Store,
    rollout: str,
    revision: int,
    *,
    timeout_s: float = TIMEOUT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Acknowledgement:
    """Poll the workers' own reports until all live ones serve *revision* of *rollout*, or *timeout_s* is over."""
    started = clock()
    while True:
        found = followers_of(store, rollout)
        missing = found.behind(revision)
        elapsed = clock() - started
        if not missing or elapsed >= timeout_s:
            return Acknowledgement(
                served=tuple(worker.id for worker in found.live if worker.id not in missing),
                missing=missing,
                silent=_ids(found.silent),
                pinned=_ids(worker for worker in found.live if rollout in worker.pinned),
                seconds=elapsed,
            )
        sleep(_POLL_S)


def _ids(workers: Iterable[Worker]) -> tuple[str, ...]:
    return tuple(worker.id for worker in workers)
