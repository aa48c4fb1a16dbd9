"""
A plan file that is edited while the service runs: looked at about once a second, never on the request path.

A broken edit (half-written, invalid, gone) changes nothing: the last good plan stays, and ``problem`` says why.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import ref

from .._core.lifecycle.transitions import change_plan
from .._core.plan.changes import describe, evidence_of, rebased
from .._core.plan.schema import parse
from .._troubles import logger
from ..errors import ConfigError, TransitionRefused
from .plan_file import read_plan

if TYPE_CHECKING:
    import os

    from .._core.plan.schema import Plan, RolloutPlan
    from .served import Served

LOOK_S: Final = 0.5
"""How often the file is looked at. It must look the same twice before it is read: an editor may be half through."""

_Signature = tuple[int, int, int, int, int]


class PlanFile:
    """
    One plan file as this process last read it.

    Args:
        path: where it is. Links are followed at every look, so that exchanging one (Kubernetes' ``..data``) is seen.
    Raises:
        ConfigError: it cannot be read, or holds no plan.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # The process may change its directory later. Not resolve(): links are followed anew at each look.
        self.path = Path(path).absolute()
        # Before the reading: an edit in between is then seen at the next look.
        self._seen = _signature(self.path)
        self._candidate: _Signature | str | None = "none"
        self.plan = parse(read_plan(path))
        self.problem: str | None = None
        """What is wrong with the file as it is now, or None."""

    @property
    def name(self) -> str:
        """The file's name without its folder, for messages."""
        return self.path.name

    def look(self) -> Plan | None:
        """
        The plan that the file holds now, where it is another than ``plan``, which it becomes.

        Raises:
            ConfigError: the file is broken; raised once for each time that it changes, and kept in ``problem``.
        """
        now = _signature(self.path)
        if now == self._seen:
            self._candidate = "none"
            return None
        if now != self._candidate:
            self._candidate = now
            return None
        try:
            plan = parse(read_plan(self.path))
        except ConfigError as error:
            if _signature(self.path) != now:
                return None  # read while it was being written: what is wrong may be right by the next look
            self._seen, self.problem = now, str(error)
            raise
        if _signature(self.path) != now:
            return None
        self._seen, self.problem = now, None
        if plan == self.plan:
            return None
        self.plan = plan
        return plan


def _signature(path: Path) -> _Signature | None:
    """What differs after every edit, whether in place, by renaming or by exchanging a link; None without a file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    # The time of the last change of the entry too: tools that restore the time of the last edit cannot restore it.
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev, found.st_ctime_ns


class Edits:
    """
    What a process's own plan says since it started, and what its rollouts have yet to follow of it.

    Attributes:
        file: where the plan is; None where it is code.
        pending: rollout → its plan before the first edit that is not followed yet.
        notes: rollout → why its own plan is not the one in force, in a sentence.
    """

    def __init__(self, file: PlanFile | None) -> None:
        self.file = file
        self.pending: dict[str, RolloutPlan] = {}
        self.notes: dict[str, str] = {}

    @property
    def name(self) -> str:
        """What the plan is called in messages."""
        return "the app's plan" if self.file is None else self.file.name

    def look(self, canary: Served) -> None:
        """Look at the file once. Never raises: a problem is kept, counted, and logged where it is a new one."""
        file = self.file
        if file is None:
            return
        before = file.plan
        try:
            plan = file.look()
            if plan is not None:
                for name, old in canary.redeclare(plan).items():
                    self.pending.setdefault(name, old)
                for name in {*self.pending, *self.notes}:
                    if not canary.is_declared(name):
                        self.pending.pop(name, None)
                        self.notes.pop(name, None)
        except Exception as error:  # noqa: BLE001 - whatever is in the file, the last good plan is served
            file.plan = before
            said = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            file.problem = said if said.startswith("plan ") else f"plan {str(file.path)!r}: {said}"
            canary.troubles.report("plan file", error, "the last good plan stays in force", matter=file.problem)

    def problems(self) -> list[str]:
        """What an operator should know of the plan."""
        broken = [] if self.file is None or self.file.problem is None else [self.file.problem]
        return [*broken, *self.notes.values()]


class PlanWatch:
    """
    Follows the plan file of a Canary that has no store: one daemon thread per process.

    Args:
        canary: whose plan it is.
        edits: of that plan.
    """

    def __init__(self, canary: Served, edits: Edits) -> None:
        self._canary = ref(canary)
        self.edits = edits
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch, in this process: a fork has left its parent's thread behind."""
        self._stopping = threading.Event()
        arguments = (ref(self), self._stopping)
        self._thread = threading.Thread(target=_watch, args=arguments, name="canary-plan", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End; at most *timeout_s* seconds."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def tick(self) -> None:
        """One look at the file, and what follows from it. Never raises."""
        canary = self._canary()
        if canary is None:
            return
        self.edits.look(canary)
        for name, old in tuple(self.edits.pending.items()):
            try:
                self._follow(canary, name, old)
            except TransitionRefused as error:
                self.edits.notes[name] = f"{self.edits.name} is not followed: {error}"
                continue
            del self.edits.pending[name]
            self.edits.notes.pop(name, None)

    def _follow(self, canary: Served, name: str, old: RolloutPlan) -> None:
        before = canary.rollout(name)
        plan = rebased(before.plan, old, canary.declared(name))
        after = canary.change("plan", lambda current: change_plan(current, plan), rollout=name, actor="plan file")
        evidence = evidence_of(before, after)
        say_changed(name, f"{self.edits.name}: {describe(before, after, evidence)}")


def say_changed(rollout: str, reason: str) -> None:
    """Log that *rollout* goes by another plan."""
    logger().warning("canary plan of %s changed: %s", rollout, reason)


def _watch(watch: ref[PlanWatch], stopping: threading.Event) -> None:
    # Only a weak reference while it waits: a Canary that nobody holds any more ends its thread.
    while not stopping.wait(LOOK_S):
        found = watch()
        if found is None:
            return
        found.tick()
        del found
