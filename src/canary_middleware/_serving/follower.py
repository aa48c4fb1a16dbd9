"""
Follows the store: one daemon thread per process that reads state, reports what it serves, and hands over counts.

The request path never waits for it. It starts at the first request, again after a fork, and ``stop`` joins it.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .._core.lifecycle.records import Worker, from_record, to_record
from ..errors import CanaryError, StaleRevision

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from .._core.lifecycle.rollout import Rollout
    from ..stores.changes import Control
    from .last_known import LastKnownFile
    from .plan_keeper import PlanKeeper

# A rollback must feel immediate to the operator who typed it. Flagger's floor is 10 s.
REFRESH_S: Final = 0.25
BEAT_S: Final = 2.0
"""How often a worker says that it lives; after a change it says so at once."""
FLUSH_S: Final = 1.0
MAX_BACKOFF_S: Final = 5.0
_HURRIES: Final = 4


class Follower:
    """
    Keeps one process in step with its store.

    Args:
        control: the store's rollouts.
        local: the process's own rollouts, to register where the store knows none, and to restore it from.
        adopt: told of rollouts that the store holds now, by name.
        deliver: hands changes to the store that were made here while it was away; called before each reading.
        owed: the rollouts with such changes.
        drain: gives the counts since it last gave some, in the store's plain form; None where there are none.
        complain: told of failures: component, error, consequence.
        last_known: the file for the next process, or None.
        clock: monotonic seconds.
        plan: looks after the process's own plan, or None.
        jitter: random number from 0 to 1, so that a fleet does not come back in one instant.
    """

    def __init__(
        self,
        control: Control,
        *,
        local: Callable[[], Mapping[str, Rollout]],
        adopt: Callable[[Mapping[str, Rollout]], None],
        deliver: Callable[[], None],
        drain: Callable[[], Mapping[str, Any] | None],
        complain: Callable[[str, BaseException, str], None],
        last_known: LastKnownFile | None,
        clock: Callable[[], float],
        plan: PlanKeeper | None = None,
        owed: Callable[[], Collection[str]] = tuple,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._control = control
        self._store = control.store
        self._local = local
        self._adopt = adopt
        self._deliver = deliver
        self._owed = owed
        self._drain = drain
        self._complain = complain
        self._last_known = last_known
        self._clock = clock
        self._plan = plan
        self._jitter = jitter
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self.has_read = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._generation: int | None = None
        # Of two hundred rollouts one changes at a time, and requests wait while the others are parsed.
        self._parsed: dict[str, tuple[Mapping[str, Any], Rollout]] = {}
        self._names: frozenset[str] = frozenset()
        self._current_at = clock()
        self._failures = 0
        self._unsettled = 0
        self._silent_until = float("-inf")
        self._keeping = threading.Lock()
        self._kept: tuple[Rollout, ...] | None = None
        self._note = ""
        self._said = ""
        self._next_beat = 0.0
        self._next_flush = 0.0
        self._sequence = 0
        self._pending: tuple[int, int, Mapping[str, Any]] | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._thread = threading.Thread(target=self._run, name="canary-follower", daemon=True)
        self._thread.start()

    def abandon(self) -> None:
        """End soon, by itself: nobody serves from here any more."""
        self._stopping.set()

    def stop(self, timeout_s: float) -> None:
        """Hand over what is left, say good-bye and end; at most *timeout_s* seconds."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    @property
    def stale_s(self) -> float:
        """Seconds since the state was last known to be the store's."""
        return max(0.0, self._clock() - self._current_at)

    def _run(self) -> None:
        while not self._stopping.wait(self.tick()):
            pass
        self._end()

    def tick(self) -> float:
        """One round; returns the seconds until the next. Never raises."""
        if self._plan is not None:
            self._plan.look()
        if not self._say(self._deliver):
            self.keep()
        try:
            is_settled = self._read()
        except Exception as error:  # noqa: BLE001 - the store is away or odd: the last weights stay, and we try again
            self._failures += 1
            self._complain("store", error, "the last known weights stay in force, and nothing advances")
            self.has_read.set()
            backoff: float = min(MAX_BACKOFF_S, REFRESH_S * 2 ** min(self._failures, 10))
            return backoff * (0.5 + self._jitter() / 2)
        self._failures = 0
        self._current_at = self._clock()
        self._say(self._settle, self._beat, self._flush)
        return self._pause(is_settled)

    def _pause(self, is_settled: bool) -> float:
        # Our own state has just been put there: read back at once, or the first requests are served as if nothing
        # were known. A few times only; several processes that start together are in each other's way.
        self._unsettled = 0 if is_settled else self._unsettled + 1
        if 0 < self._unsettled <= _HURRIES:
            return 0.0
        self.has_read.set()
        return REFRESH_S

    def _say(self, *words: Callable[[], None]) -> bool:
        """
        What we write, as long as the store takes it; False where it did not.

        Apart from reading: a full disk or a read-only replica takes nothing, and still tells of a rollback.
        """
        if self._clock() < self._silent_until:
            return False
        try:
            for word in words:
                word()
        except Exception as error:  # noqa: BLE001 - as above
            self._silent_until = self._clock() + FLUSH_S
            self._complain("store", error, "this worker follows, and is not heard")
            return False
        return True

    def _settle(self) -> None:
        if self._plan is not None:
            self._plan.settle(self.worker_id, self._adopt)

    # -- state ------------------------------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Serve what the store holds. False where it was not as it must be, and has to be read again."""
        local = self._local()
        # A rollout that is new in the plan has yet to be registered, and its state to be read.
        is_known = local.keys() == self._names
        found = self._store.read(self._generation if is_known else None)
        if found is None:
            return True
        generation, records = found
        self._note = ""
        adopted: dict[str, Rollout] = {}
        lost: list[tuple[Rollout, int | None]] = []
        for name, mine in local.items():
            theirs = self._readable(name, records.get(name))
            if theirs is None and name not in records:
                lost.append((mine, None))
            elif theirs is not None and _is_behind(theirs, mine):
                # An older state than one we have served: the store came back from a backup. Forward, never back.
                lost.append((mine, theirs.revision))
            elif theirs is not None:
                adopted[name] = theirs
        if adopted:
            self._adopt(adopted)
            self._next_beat = 0.0
        if lost:
            # What is owed comes under its own verb and with its own evidence.
            owed = self._owed()
            self._say(partial(self._put_back, [(mine, there) for mine, there in lost if mine.name not in owed]))
            return False  # read again: somebody may have been faster
        self.keep()
        self._generation = generation
        self._names = frozenset(local)
        return True

    def _readable(self, name: str, record: Mapping[str, Any] | None) -> Rollout | None:
        if record is None:
            return None
        before = self._parsed.get(name)
        if before is not None and before[0] == record:
            return before[1]
        try:
            rollout = from_record(record)
        except CanaryError as error:
            self._note = str(error)
            self._complain(f"state of {name}", error, "the last good state stays in force")
            return None
        self._parsed[name] = (record, rollout)
        return rollout

    def _put_back(self, lost: Sequence[tuple[Rollout, int | None]]) -> None:
        """Put our own state into a store that has none, or an older one (*revision*)."""
        for rollout, revision in lost:
            if revision is None:
                reason = "first seen" if rollout.revision == 0 else "the store had lost it"
                self._control.register(rollout, actor=self.worker_id, reason=reason)
            else:
                self._restore(rollout, revision)

    def _restore(self, mine: Rollout, expect: int) -> None:
        # Where two histories have the same length, ours must become the longer one.
        rollout = mine._replace(revision=max(mine.revision, expect + 1))
        event = self._control.event(mine, rollout, "restore", self.worker_id, "the store held an older state")
        try:
            self._store.write(to_record(rollout), expect=expect, event=event)
        except StaleRevision:
            pass

    def keep(self) -> None:
        """
        Keep what is served here on disk, for the next process: also a rollback that the store has yet to hear of.

        It, and not what the store holds: a record that cannot be read helps no other process either.
        """
        if self._last_known is None:
            return
        with self._keeping:
            served = tuple(rollout for rollout in self._local().values() if rollout.is_known)
            if not served or served == self._kept:
                return
            try:
                # By this host's clock: the store may be away, and it is read on this host alone.
                self._last_known.save({rollout.name: to_record(rollout) for rollout in served}, time.time())
            except OSError as error:
                self._complain("last-known file", error, "a worker that starts without the store will serve stable")
            else:
                self._kept = served

    # -- what we say of ourselves -----------------------------------------------------------------------------------

    def _beat(self) -> None:
        now = self._clock()
        note = "; ".join(part for part in (self._note, "" if self._plan is None else self._plan.note) if part)
        if now < self._next_beat and note == self._said:
            return
        local = self._local()
        self._store.beat(
            Worker(
                id=self.worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                seen_s=0.0,
                revisions={name: rollout.revision for name, rollout in local.items()},
                stale_s=self.stale_s,
                note=note,
                pinned={name: r.pinned_ppm for name, r in local.items() if r.pinned_ppm is not None},
            )
        )
        self._said = note
        self._next_beat = now + BEAT_S

    def _flush(self, *, is_last: bool = False) -> None:
        now = self._clock()
        if now < self._next_flush and not is_last:
            return
        self._next_flush = now + FLUSH_S
        # What could not be delivered goes first, under its own number: the store knows whether it had it already.
        if self._pending is not None:
            self._store.add_counts(self.worker_id, *self._pending)
            self._pending = None
        # Asked before the counts are taken: whatever fails, they are either here or pending.
        window_s = int(self._store.now())
        counts = self._drain()
        if counts:
            self._sequence += 1
            self._pending = (self._sequence, window_s, counts)
            self._store.add_counts(self.worker_id, *self._pending)
            self._pending = None

    def _end(self) -> None:
        try:
            self._deliver()
            self._flush(is_last=True)
            self._store.leave(self.worker_id)
        except Exception as error:  # noqa: BLE001 - nobody is left to hear it
            self._complain("store", error, "what it has not been told yet is lost, such as the last counts")
        finally:
            self._store.close()


def _is_behind(theirs: Rollout, mine: Rollout) -> bool:
    """Whether the store's state is older than ours, or as old and without the latch that ours has."""
    if theirs.revision != mine.revision:
        return theirs.revision < mine.revision
    # After a failover that lost our rollback another change may stand in its place.
    return mine.is_latched and not theirs.is_latched
