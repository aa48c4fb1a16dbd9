"""
The plan of a rollout that many processes share: which of their plan files the store's copy follows, and when.

Every process has a plan of its own, and during a deploy they differ. So that no two of them take turns in overwriting
each other, a process brings its plan to the store only

- as an edit of the plan in force: its file was that plan, and has changed since; or
- while nothing is in progress, where the store has never gone by that plan; or
- when its app starts or retries the rollout.

In all other cases the store's plan stays, and the process says in its heartbeat that it has another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import ref

from .._core.lifecycle.transitions import change_plan
from .._core.plan.changes import IN_PROGRESS, changed_keys, declared_by, describe, evidence_of, fingerprint, rebased
from ..errors import ConfigError, StaleRevision, TransitionRefused
from .plan_watch import say_changed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core.lifecycle.rollout import Rollout
    from .._core.plan.schema import RolloutPlan
    from ..stores.changes import Control
    from .plan_watch import Edits
    from .served import Served


class _Own(NamedTuple):
    """A rollout's plan as this process has it, and what stands for it in the store."""

    plan: RolloutPlan
    fingerprint: str


class PlanKeeper:
    """
    Keeps the store's copy of a Canary's plans, from one process.

    Args:
        canary: whose plans they are.
        control: the store's rollouts.
        edits: of the plan file.
    """

    def __init__(self, canary: Served, control: Control, edits: Edits) -> None:
        self._canary = ref(canary)
        self._control = control
        self._edits = edits
        self._own: dict[str, _Own] = {}
        self._decided: dict[str, tuple[int, str]] = {}

    @property
    def note(self) -> str:
        """What an operator should know of this process's plan; empty where it is the one in force."""
        canary = self._canary()
        return "" if canary is None else canary.plan_problem or ""

    def look(self) -> None:
        """See whether the file was edited. Never raises, and needs no store."""
        canary = self._canary()
        if canary is not None:
            self._edits.look(canary)

    def settle(self, worker_id: str, adopt: Callable[[Mapping[str, Rollout]], None]) -> None:
        """
        Bring to the store what may be brought, once the rollouts were read from it.

        Args:
            worker_id: who does it, for the audit trail.
            adopt: told of rollouts as the store holds them then, by name.
        Raises:
            StoreUnavailable: it is tried again after the next reading.
        """
        canary = self._canary()
        if canary is None:
            return
        for rollout in canary.rollouts():
            if rollout.is_known and canary.is_declared(rollout.name):
                changed = self._settle(canary, rollout, worker_id)
                if changed is not None:
                    adopt({changed.name: changed})

    def bring(self, name: str, actor: str) -> None:
        """
        Let a run that is about to begin go by this process's plan.

        Raises:
            TransitionRefused: it cannot; says what would help.
            StaleRevision: somebody else changed the rollout first.
        """
        canary = self._canary()
        if canary is None:
            return
        own = self._own_of(canary, name)
        current = self._control.rollout(name)
        if current.phase not in IN_PROGRESS and declared_by(current) != own.fingerprint:
            self._write(current, own, actor)

    def _own_of(self, canary: Served, name: str) -> _Own:
        plan = canary.declared(name)
        known = self._own.get(name)
        if known is None or known.plan is not plan:
            known = self._own[name] = _Own(plan, fingerprint(plan))
        return known

    def _settle(self, canary: Served, served: Rollout, worker_id: str) -> Rollout | None:
        """The rollout with our plan, where that was brought to the store now."""
        name = served.name
        own = self._own_of(canary, name)
        decided = (served.revision, own.fingerprint)
        if declared_by(served) == own.fingerprint:
            self._edits.pending.pop(name, None)
            self._edits.notes.pop(name, None)
        elif self._decided.get(name) != decided:
            if self._may_bring(served, own):
                return self._try(served, own, worker_id)
            self._edits.notes[name] = self._difference(served, own)
            self._decided[name] = decided
        return None

    def _try(self, served: Rollout, own: _Own, worker_id: str) -> Rollout | None:
        try:
            # As it is in the store now; somebody may have been faster since we read it.
            current = self._control.rollout(served.name)
            if current.revision == served.revision:
                return self._write(current, own, f"plan file ({worker_id})")
        except (StaleRevision, ConfigError):  # ConfigError: the store has lost it, or holds what nobody can read
            pass
        except TransitionRefused as error:
            self._edits.notes[served.name] = f"{self._edits.name} is not followed: {error}"
            self._decided[served.name] = (served.revision, own.fingerprint)
        return None

    def _may_bring(self, served: Rollout, own: _Own) -> bool:
        old = self._edits.pending.get(served.name)
        if old is not None and fingerprint(old) == declared_by(served):
            return True
        return served.phase not in IN_PROGRESS and own.fingerprint not in served.superseded

    def _write(self, current: Rollout, own: _Own, actor: str) -> Rollout:
        old = self._edits.pending.get(current.name)
        is_edit = old is not None and fingerprint(old) == declared_by(current)
        plan = rebased(current.plan, old, own.plan) if old is not None and is_edit else own.plan

        def transition(rollout: Rollout) -> Rollout:
            return change_plan(rollout, plan, own.fingerprint)

        after = transition(current)
        evidence = evidence_of(current, after)
        reason = f"{self._edits.name}: {describe(current, after, evidence)}"
        changed = self._control.change(
            current.name, "plan", transition, actor=actor, reason=reason, evidence=evidence, expect=current.revision
        )
        say_changed(current.name, reason)
        return changed

    def _difference(self, served: Rollout, own: _Own) -> str:
        keys = ", ".join(changed_keys(served.plan, own.plan)) or "the order of what it says"
        if served.phase in IN_PROGRESS:
            why = f"the store's stays in force while it is {served.phase}"
        else:
            why = "it is an earlier plan than the store's; the app's start() or an edit would bring it back"
        return f"{self._edits.name} differs from the store's plan of {served.name!r} ({keys}): {why}"
