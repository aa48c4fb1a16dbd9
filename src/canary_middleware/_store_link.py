"""
A Canary whose rollouts live in a store: changed there, followed from there, counted there.

The app's own plan says who is asked and by what; the store's copy says everything that workers must agree on.
"""

from __future__ import annotations

import atexit
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import ref

from ._control.ticks import flight_to_plain, groups_to_plain, users_to_plain
from ._core.lifecycle.records import from_record
from ._core.tallies import Cell, to_plain
from ._serving.follower import Follower
from ._serving.in_flight import InFlight
from ._serving.last_known import LastKnownFile
from ._serving.plan_keeper import PlanKeeper
from ._serving.plan_watch import Edits
from ._views.status import began_s, fleet_counts
from .errors import CanaryError, ConfigError, StaleRevision, StoreUnavailable, TransitionRefused
from .stores.changes import Control

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ._control.controller import ControllerThread
    from ._core.lifecycle.rollout import Rollout, Variant
    from ._core.ports import Store
    from ._core.tallies import Key, Moments, Series
    from ._serving.plan_watch import PlanFile
    from ._serving.served import Served

# The first request of a process waits this long for the store, once; a local file answers in a few milliseconds.
FIRST_READ_S: Final = 0.3
_BEGINNINGS: Final = frozenset({"start", "retry"})
_LOCAL_FIRST: Final = frozenset({"rollback", "emergency"})
_WANTED: Final = {"pause": "paused", "hold": "holding"}
GROUPS_EVERY: Final = 3
"""Every so many flushes the identity groups are told of."""
USERS_EVERY: Final = 300
"""Every so many flushes all identities are told of again, once each: a rollout may have begun since."""
_MOST_OWED: Final = 100
"""Lines for the audit trail that a process keeps while the store is away; changes are kept in any case."""


class _Debt(NamedTuple):
    """A change that is in force here, and that the store has yet to hear of."""

    name: str
    verb: str
    tell: Callable[[], Rollout]


class Sharing:
    """
    One Canary's side of a store.

    Args:
        canary: whose rollouts they are.
        store: where they live.
        file: the plan file that they were read from, if any.
        decides: whether this process may be the one that decides for all.
    """

    def __init__(self, canary: Served, store: Store, file: PlanFile | None = None, *, decides: bool = True) -> None:
        self._canary = ref(canary)
        canary.counts.is_judged = True
        self._decides = decides
        self._controller: ControllerThread | None = None
        self.store = store
        self.control = Control(store)
        self.edits = Edits(file)
        self._keeper = PlanKeeper(canary, self.control, self.edits)
        self._follower: Follower | None = None
        self._forget_counts()
        self._owed: list[_Debt] = []
        self._make_locks()
        self._last_known = None if store.url.startswith("memory:") else LastKnownFile(self._place(canary))

    def _place(self, canary: Served) -> Path:
        """Where the next process with this plan looks for the last state."""
        names = [rollout.name for rollout in canary.rollouts() if canary.is_declared(rollout.name)]
        return LastKnownFile.beside(self.store.url, names).path

    def renamed(self) -> None:
        """The plan names other rollouts now."""
        canary = self._canary()
        if canary is not None and self._last_known is not None:
            self._last_known.path = self._place(canary)

    def _forget_counts(self) -> None:
        """Nothing of this process's counts has been handed over yet."""
        self._flushed: dict[Series, Cell] = {}
        self._grouped: Mapping[Variant, list[int]] = {}
        self._recorded: Mapping[Key, Moments] = {}
        self._in_flight = InFlight()
        self._flushes = 0

    def _make_locks(self) -> None:
        # Two, so that a rollback takes effect here while another thread waits for the store.
        self._serving = threading.RLock()
        self._delivering = threading.Lock()

    @property
    def stale_s(self) -> float:
        """Seconds since the served state was last known to be the store's."""
        return 0.0 if self._follower is None else self._follower.stale_s

    def start(self, *, is_fork: bool = False) -> None:
        """Begin to follow, in this process; waits a moment for the first reading. Never raises."""
        canary = self._canary()
        if canary is None:
            return
        if is_fork:  # what the parent owes the parent tells, what it counted it hands over, and its locks are its own
            self._owed = []
            self._make_locks()
            self._forget_counts()
        self._remember(canary)
        follower = self._follower = Follower(
            self.control,
            local=lambda: {r.name: r for r in self._mine()},
            adopt=self._adopt,
            deliver=self._deliver,
            owed=lambda: {debt.name for debt in tuple(self._owed)},
            drain=self._drain,
            plan=self._keeper,
            complain=canary.troubles.report,
            last_known=self._last_known,
            clock=canary.clock,
        )
        controller = self._controller = self._deciding(canary, follower) if self._decides else None
        # Gone without `close`: so is whoever was served from here.
        self._gone = ref(canary, lambda _: _abandon(follower, controller))
        follower.start()
        follower.has_read.wait(FIRST_READ_S)
        if controller is not None:
            controller.start()
            # In reverse order: who decides hands over before the store is closed.
            atexit.register(_stop, ref(follower))
            atexit.register(_stop, ref(controller))
            return
        atexit.register(_stop, ref(follower))

    def _deciding(self, canary: Served, follower: Follower) -> ControllerThread:
        from ._control.controller import Controller, ControllerThread

        report = canary.troubles.report
        return ControllerThread(Controller(self.control, follower.worker_id, complain=report, mine=self._mine))

    def stop(self, timeout_s: float) -> None:
        """Hand over the last counts and end."""
        controller, self._controller = self._controller, None
        if controller is not None:
            controller.stop(timeout_s / 2)
            timeout_s /= 2
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.stop(timeout_s)
        else:  # steered or asked without a request: nobody else closes it
            self.store.close()

    def change(
        self,
        name: str,
        verb: str,
        transition: Callable[[Rollout], Rollout],
        actor: str,
        reason: str,
        expect: int | None = None,
    ) -> Rollout:
        """
        Change a rollout for everybody.

        A rollback takes effect here first and is owed to the store until it takes it; everything else needs the store.
        """
        canary = self._canary()
        assert canary is not None
        if verb in _LOCAL_FIRST:
            self.insist([name], verb, transition, actor, reason)
        else:
            self._adopt({name: self._tell(canary, name, verb, transition, actor, reason, expect)})
        return canary.rollout(name)

    def _tell(
        self,
        canary: Served,
        name: str,
        verb: str,
        transition: Callable[[Rollout], Rollout],
        actor: str,
        reason: str,
        expect: int | None,
    ) -> Rollout:
        """Change it in the store, which may not know it yet."""
        if not self.control.knows(name):
            self.control.register(canary.rollout(name), actor=actor, reason="first seen")
        if verb not in _BEGINNINGS:
            return self.control.change(name, verb, transition, actor=actor, reason=reason, expect=expect)
        self.control.require(name, expect)
        self._keeper.bring(name, actor)
        return self.control.change(name, verb, transition, actor=actor, reason=reason)

    def insist(
        self, names: Sequence[str], verb: str, transition: Callable[[Rollout], Rollout], actor: str, reason: str
    ) -> None:
        """Change rollouts here, all of them, before the store hears of the first; it is told now or when it is back."""
        canary = self._canary()
        assert canary is not None
        with self._serving:
            for name in names:
                canary.serve(transition(canary.rollout(name)))
                tell = partial(self._tell, canary, name, verb, transition, actor, reason, None)
                self._owed.append(_Debt(name, verb, tell))
        try:
            self._deliver()
        except (StoreUnavailable, StaleRevision) as error:
            consequence = f"the {verb} is in force here, and will be told when it is back"
            canary.troubles.report("store", error, consequence)
            if self._follower is not None:
                self._follower.keep()

    def owe(
        self,
        name: str,
        verb: str,
        transition: Callable[[Rollout], Rollout] | None,
        *,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> None:
        """
        Change a rollout here and now, and leave it to the follower to tell the store. For the request path: no I/O.

        Args:
            transition: None changes nothing, and only writes a line in the audit trail.
        Raises:
            TransitionRefused: its phase does not allow it; nothing is owed.
        """
        canary = self._canary()
        if canary is None:
            return
        said = {**evidence, "worker": "" if self._follower is None else self._follower.worker_id}

        def tell() -> Rollout:
            made = transition
            if not self.control.knows(name):
                self.control.register(canary.rollout(name), actor=actor, reason="first seen")
            elif made is not None:
                made = partial(_unless_done, verb, made)
            if made is not None:
                try:
                    return self.control.change(name, verb, made, actor=actor, reason=reason, evidence=said)
                except _Done as done:
                    return done.rollout
            mine = canary.rollout(name)
            self.store.log(self.control.event(mine, mine, verb, actor, reason, said))
            return self.control.rollout(name)

        with self._serving:
            if transition is not None:
                canary.serve(transition(canary.rollout(name)))
            elif len(self._owed) >= _MOST_OWED:
                return
            self._owed.append(_Debt(name, verb, tell))

    def counted(self, name: str) -> tuple[dict[Series, Cell], float]:
        """
        The whole fleet's counts since the rollout *name* was last started, with ours that are still on their way.

        Returns:
            series, and the seconds they cover.
        """
        canary = self._canary()
        since_s = began_s(self.store, name)
        # Ours first: what is flushed in between is missed until the next look, and nothing is counted twice.
        ours = {} if canary is None else _difference(canary.counts.snapshot().series, self._flushed)
        total, first_s = fleet_counts(self.store, since_s, None if canary is None else canary.variants)
        for series, cell in ours.items():
            total.setdefault(series, Cell()).add(cell)
        return total, max(1.0, self.store.now() - (since_s if first_s is None else max(first_s, since_s)))

    # -- what the follower asks of us -------------------------------------------------------------------------------

    def _mine(self) -> tuple[Rollout, ...]:
        canary = self._canary()
        return () if canary is None else canary.rollouts()

    def _adopt(self, rollouts: Mapping[str, Rollout]) -> None:
        canary = self._canary()
        if canary is None:
            return
        with self._serving:
            owed = {debt.name for debt in self._owed}
            mine = {rollout.name: rollout for rollout in canary.rollouts()}
            for name, theirs in rollouts.items():
                # A reading may be older than what another thread of ours has just changed.
                is_older = name in mine and mine[name].is_known and theirs.revision < mine[name].revision
                if name not in owed and not is_older:
                    canary.serve(theirs)

    def _deliver(self) -> None:
        canary = self._canary()
        if canary is None:
            return
        report = canary.troubles.report
        with self._delivering:
            for debt in tuple(self._owed):
                try:
                    changed = debt.tell()
                except ConfigError as error:
                    consequence = "it is in force here, and owed until somebody mends the store's record"
                    report(f"{debt.verb} of {debt.name}", error, consequence)
                    continue
                except TransitionRefused as error:
                    consequence = "the store's state is beyond it, and will be served"
                    report(f"{debt.verb} of {debt.name}", error, consequence)
                    self._owed.remove(debt)
                else:
                    self._owed.remove(debt)
                    self._adopt({debt.name: changed})

    def _drain(self) -> Mapping[str, Any] | None:
        canary = self._canary()
        if canary is None:
            return None
        snapshot = canary.counts.snapshot()
        fresh = _difference(snapshot.series, self._flushed)
        self._flushed = snapshot.series
        canary.counts.drop_lost(canary.clock())
        said = self._in_flight.look(list(canary.counts.live), canary.clock())
        further = {
            **flight_to_plain(said),
            **users_to_plain(canary.counts.newcomers()),
            **self._fresh_groups(snapshot.groups),
            **self._fresh_recordings(canary),
        }
        return {**to_plain(fresh), **further} or None

    def _fresh_recordings(self, canary: Served) -> dict[str, Any]:
        """What the app has recorded since the last look."""
        if canary.recordings is None:
            return {}
        from ._core.tallies import custom_to_plain
        from ._serving.recordings import difference

        now = canary.recordings.snapshot()
        fresh = difference(now, self._recorded)
        self._recorded = now
        return custom_to_plain(fresh)

    def _fresh_groups(self, now: Mapping[Variant, list[int]]) -> dict[str, Any]:
        """What the identity groups have done since they were last told of; told seldom, for they tell slowly."""
        self._flushes += 1
        canary = self._canary()
        if canary is not None and not self._flushes % USERS_EVERY:
            canary.counts.forget_users()
        if self._flushes % GROUPS_EVERY:
            return {}
        fresh = {}
        for variant, row in now.items():
            before = self._grouped.get(variant)
            fresh[variant] = row if before is None else [n - old for n, old in zip(row, before, strict=True)]
        self._grouped = now
        return groups_to_plain(fresh)

    def _remember(self, canary: Served) -> None:
        """Serve what the last process here knew, until the store says more."""
        found = None if self._last_known is None else self._last_known.load()
        if found is None:
            return
        for name, record in found.records.items():
            try:
                self._adopt({name: from_record(record)})
            except CanaryError as error:
                canary.troubles.report(f"last-known state of {name}", error, "stable serves until the store is read")


class _Done(Exception):
    """What a process wanted is so already."""

    def __init__(self, rollout: Rollout) -> None:
        super().__init__(rollout.name)
        self.rollout = rollout


def _unless_done(verb: str, transition: Callable[[Rollout], Rollout], rollout: Rollout) -> Rollout:
    """Of several workers that find the same, the first changes it: one decision, one line in the audit trail."""
    if rollout.is_latched or rollout.phase == _WANTED.get(verb):
        raise _Done(rollout)
    return transition(rollout)


def _difference(now: Mapping[Series, Cell], before: Mapping[Series, Cell]) -> dict[Series, Cell]:
    fresh = {}
    for series, cell in now.items():
        new = cell.minus(before.get(series))
        if new.buckets:
            fresh[series] = new
    return fresh


def _abandon(*threads: Follower | ControllerThread | None) -> None:
    for thread in threads:
        if thread is not None:
            thread.abandon()


def _stop(thread: ref[Follower] | ref[ControllerThread]) -> None:
    running = thread()
    if running is not None:
        running.stop(2.0)
