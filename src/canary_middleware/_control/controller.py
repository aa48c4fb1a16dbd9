"""
Decides for all: counts → judge → transition → compare-and-set, in whichever process holds the lease.

It reads and writes through the store alone, so any worker can do it, or ``canary run`` beside them. A rollout is moved
only under the lease's fencing token: who was paused past its end writes nothing.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from .._core.assignment.bucketing import BUCKETS
from .._core.lifecycle import transitions
from .._core.lifecycle.progress import Facts, Finding, held_since, next_move, stage_clock
from .._core.lifecycle.records import Lease, from_record
from .._troubles import logger
from ..errors import CanaryError, LeaseLost, StaleRevision, TransitionRefused
from .docket import Case
from .findings import with_tests
from .people import findings_now
from .timezones import is_open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .._core.lifecycle.progress import Move
    from .._core.lifecycle.records import Event
    from .._core.lifecycle.rollout import Rollout
    from ..stores.changes import Control

    Complain = Callable[[str, BaseException, str], None]
    Told = Callable[[str, str, str], None]

ACTOR: Final = "controller"
LEASE: Final = "controller"
LEASE_S: Final = 6.0
"""A leader that has died is replaced after so many seconds."""
TICK_S: Final = 1.0
_WAITING_S: Final = 2.0  # between tries for the lease
_TROUBLED_S: Final = 5.0
# A window is judged when the slowest worker's flush of that second has had time to arrive.
CLOSED_S: Final = 2.0
_KEEP_S: Final = 5.0
_LOOK_S: Final = 5.0
_EVENTS: Final = 1000
_MOVING: Final = frozenset({"progressing", "holding", "baking"})

# What the audit trail calls each move, and the transition that makes it.
_VERBS: Final = {"roll_back": "rollback", "retreat": "hold"}
_WITH_REASON: Final = frozenset({"hold", "retreat", "roll_back", "pause"})


def is_watched(rollout: Rollout) -> bool:
    """Whether there is something to decide: it moves, or users have the canary while a person has stopped it."""
    return rollout.phase in _MOVING or (rollout.phase == "paused" and rollout.weight_ppm > 0)


class _Docket:
    """One rollout as the controller keeps it between rounds."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.events: Sequence[Event] = ()
        self.revision = -1
        self.read_at = float("-inf")
        self.kept_at = float("-inf")
        self.told: set[str] = set()


class Controller:
    """
    One process's part in deciding.

    Args:
        control: the store's rollouts.
        holder: names this process, uniquely.
        complain: told of what goes wrong: component, error, consequence.
        mine: this process's own rollouts; the store is only asked for the lease while one of them is watched. None
            asks the store.
        told: rollout, verb and reason of each move that was made, for whoever watches.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        control: Control,
        holder: str,
        *,
        complain: Complain,
        mine: Callable[[], Iterable[Rollout]] | None = None,
        told: Told | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._store = control.store
        self._holder = holder
        self._complain = complain
        self._mine = mine
        self._told = told
        self._clock = clock
        self._lease: Lease | None = None
        self._dockets: dict[str, _Docket] = {}
        self._pinned: frozenset[str] = frozenset()
        self._pinned_at = float("-inf")

    @property
    def is_leading(self) -> bool:
        """Whether this process held the lease when it last asked."""
        return self._lease is not None

    def round(self) -> float:
        """Look once and decide; returns the seconds until the next look. Never raises."""
        try:
            return self._round()
        except LeaseLost:
            self._forget()
            return _WAITING_S
        except Exception as error:  # noqa: BLE001 - whatever it was, requests go on, and the last weights stay
            self._forget()
            self._complain("controller", error, "nothing advances until it works again; guardrails still roll back")
            return _TROUBLED_S

    def rest(self) -> None:
        """Hand over: keep what is known and give the lease back. Never raises."""
        lease = self._lease
        if lease is None:
            return
        try:
            for docket in self._dockets.values():
                docket.case.keep(self._store, lease)
            self._store.release(LEASE, self._holder)
        except Exception as error:  # noqa: BLE001 - the lease runs out by itself
            self._complain("controller", error, "another process takes over when the lease has run out")
        self._forget()

    def _forget(self) -> None:
        # Another may have gone on: what we know is taken from the store again.
        self._lease = None
        self._dockets = {}

    def _round(self) -> float:
        if self._mine is not None and not any(is_watched(rollout) for rollout in self._mine()):
            self.rest()
            return TICK_S
        token = self._store.acquire(LEASE, self._holder, LEASE_S)
        if token is None:
            self._forget()
            return _WAITING_S
        lease = Lease(LEASE, self._holder, token)
        if lease != self._lease:
            self._forget()
            self._lease = lease
        rollouts = [rollout for rollout in self._rollouts() if is_watched(rollout)]
        self._dockets = {r.name: self._docket(r) for r in rollouts}
        if not rollouts:
            self.rest()
            return TICK_S
        self._decide_all(rollouts, lease)
        return TICK_S

    def _rollouts(self) -> Iterable[Rollout]:
        found = self._store.read()
        for name, record in ({} if found is None else found[1]).items():
            try:
                yield from_record(record)
            except CanaryError as error:
                self._complain(f"state of {name}", error, "it is not judged; the others are")

    def _docket(self, rollout: Rollout) -> _Docket:
        """What is known of *rollout*, with its audit trail as of now."""
        docket = self._dockets.get(rollout.name)
        now = self._clock()
        if docket is None:
            docket = _Docket(
                Case(rollout.name, lambda text: self._complain("counts", ValueError(text), "they are left out"))
            )
        if docket.revision != rollout.revision or now - docket.read_at >= _LOOK_S:
            is_new = docket.revision < 0
            docket.events = self._store.history(rollout.name, _EVENTS)
            docket.revision, docket.read_at = rollout.revision, now
            if is_new or not docket.case.is_of(docket.events):
                docket.told = {str(event.evidence.get("said")) for event in docket.events}
                docket.case.load(self._store, rollout, docket.events)
        return docket

    def _decide_all(self, rollouts: Sequence[Rollout], lease: Lease) -> None:
        now_s = self._store.now()
        since = min(self._dockets[rollout.name].case.cursor for rollout in rollouts) + 1
        windows = [window for window in self._store.counts(since) if window[0] <= now_s - CLOSED_S]
        for rollout in rollouts:
            try:
                self._decide(rollout, windows, now_s, lease)
            except StaleRevision:
                continue  # somebody was faster: look at it again in a second
            except TransitionRefused as error:
                self._complain(f"{rollout.name}", error, "it is left as it is")

    def _decide(
        self, rollout: Rollout, windows: Sequence[tuple[int, Mapping[str, Any]]], now_s: float, lease: Lease
    ) -> None:
        docket = self._dockets[rollout.name]
        finding = docket.case.look(rollout, windows, docket.events, now_s)
        finding = with_tests(finding, findings_now(docket.events, rollout))
        docket.case.note_finding(finding, now_s)
        self._warn(rollout, docket, finding)
        facts = self._facts(rollout, docket, finding, now_s)
        move = next_move(rollout, facts)
        if not rollout.plan.enforce:
            allowed = next_move(rollout, facts._replace(finding=Finding("pass", "by time alone: a dry run")))
            if move != allowed and move is not None:
                self._say(rollout, docket, "dry-run", f"would {_name(move)}: {move.reason}", move.evidence)
            move = allowed
        if move is not None:
            self._make(rollout, move, lease)
        if move is not None or self._clock() - docket.kept_at >= _KEEP_S:
            docket.case.keep(self._store, lease)
            docket.kept_at = self._clock()

    def _facts(self, rollout: Rollout, docket: _Docket, finding: Finding, now_s: float) -> Facts:
        stages = rollout.plan.stages
        window = stages[rollout.stage].advance if 0 <= rollout.stage < len(stages) else None
        held = held_since(docket.events)
        return Facts(
            finding,
            stage_clock(docket.events, now_s),
            self._is_open(window, now_s),
            rollout.name in self._pins(),
            0.0 if held is None else max(0.0, now_s - held),
        )

    def _is_open(self, window: str | None, now_s: float) -> bool:
        try:
            return is_open(window, now_s)
        except (LookupError, ValueError, OSError) as error:
            self._complain("calendar", error, "the stage does not end by itself: install tzdata, or name another zone")
            return False

    def _pins(self) -> frozenset[str]:
        """Rollouts whose weight the environment of a live worker pins."""
        now = self._clock()
        if now - self._pinned_at >= _LOOK_S:
            self._pinned = frozenset(name for worker in self._store.workers() for name in worker.pinned)
            self._pinned_at = now
        return self._pinned

    def _make(self, rollout: Rollout, move: Move, lease: Lease) -> None:
        transition: Any = getattr(transitions, move.verb)
        why = move.why or move.reason

        def apply(current: Rollout) -> Rollout:
            return transition(current, why) if move.verb in _WITH_REASON else transition(current)  # type: ignore[no-any-return]

        verb = _name(move)
        changed = self._control.change(
            rollout.name,
            verb,
            apply,
            actor=ACTOR,
            reason=move.reason,
            evidence=move.evidence,
            expect=rollout.revision,
            lease=lease,
        )
        log = logger().error if move.verb == "roll_back" else logger().info
        weight = changed.effective_ppm * 100 / BUCKETS
        log("canary controller: %s of %s, now %s at %g %%: %s", verb, rollout.name, changed.phase, weight, move.reason)
        if self._told is not None:
            self._told(rollout.name, verb, move.reason)

    def _warn(self, rollout: Rollout, docket: _Docket, finding: Finding) -> None:
        """Tell once of each limit that is broken and only asks for a warning."""
        for test in finding.evidence.get("tests", ()):
            if test["verdict"] == "fail" and test.get("action") == "warn":
                self._say(rollout, docket, "warn", test["sentence"] or test["name"], test, key=test["name"])

    def _say(
        self,
        rollout: Rollout,
        docket: _Docket,
        verb: str,
        text: str,
        evidence: Mapping[str, Any],
        key: str = "",
    ) -> None:
        """A line in the audit trail that changes nothing, once in a stage, whoever leads."""
        said = f"{rollout.stage} {verb} {key or text.partition(':')[0]}"
        if said in docket.told:
            return
        docket.told.add(said)
        event = self._control.event(rollout, rollout, verb, ACTOR, text, {**evidence, "said": said})
        self._store.log(event)
        logger().warning("canary controller of %s, %s: %s", rollout.name, verb, text)


def _name(move: Move) -> str:
    """What the audit trail calls a move."""
    return _VERBS.get(move.verb, move.verb)


class ControllerThread:
    """Runs a Controller beside the requests of one process, until stopped."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="canary-controller", daemon=True)
        self._thread.start()

    def abandon(self) -> None:
        """End soon, by itself."""
        self._stopping.set()

    def stop(self, timeout_s: float) -> None:
        """Hand over and end; at most *timeout_s* seconds."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.wait(self._controller.round()):
            pass
        self._controller.rest()
