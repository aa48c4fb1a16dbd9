"""
Changes to rollouts in a store: a pure transition, compared and set, with its line in the audit trail.

The command line, the admin page, the controller and an app's own ``Canary`` all change rollouts through this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Required, TypedDict

from .._core.hints import hint
from .._core.lifecycle.records import Event, from_record, stale, summary_of, to_record
from ..errors import ConfigError, StaleRevision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

    from .._core.lifecycle.records import Lease
    from .._core.lifecycle.rollout import Rollout
    from .._core.ports import Store

    Transition = Callable[[Rollout], Rollout]

# A rollback must win over every concurrent intent; each lost race means that somebody else made progress.
_ATTEMPTS: Final = 100
_INSISTENT: Final = frozenset({"rollback", "emergency"})
"""Verbs that are tried again after a lost race; all others tell their caller who was first."""


class Step(NamedTuple):
    """A rollout before and after a change that the store has taken."""

    before: Rollout
    after: Rollout


class How(TypedDict, total=False):
    """Who makes a change, and on what condition: see ``Control.step``."""

    actor: Required[str]
    reason: str
    evidence: Mapping[str, Any] | None
    expect: int | None
    lease: Lease | None


class Control:
    """
    The rollouts of one store.

    Args:
        store: where they are.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def rollouts(self) -> dict[str, Rollout]:
        """All rollouts by name. Raises StoreUnavailable, or ConfigError for a record that cannot be read."""
        found = self.store.read()
        records = {} if found is None else found[1]
        return {name: from_record(record) for name, record in records.items()}

    def rollout(self, name: str) -> Rollout:
        """One rollout. Raises ConfigError, with the names that there are, where it is none of them."""
        found = self.store.read()
        records = {} if found is None else found[1]
        if name in records:
            # Only this one: a record that cannot be read must not stand in the way of another's rollback.
            return from_record(records[name])
        known = f"there are {', '.join(sorted(records))}" if records else "it holds none yet: start the service first"
        raise ConfigError(f"there is no rollout {name!r} in {self.store.url}: {hint(name, records, known)}")

    def names(self) -> list[str]:
        """The names of all rollouts, readable or not."""
        found = self.store.read()
        return [] if found is None else sorted(found[1])

    def knows(self, name: str) -> bool:
        """Whether the store holds a rollout of that name, readable or not."""
        found = self.store.read()
        return found is not None and name in found[1]

    def register(self, rollout: Rollout, *, actor: str, reason: str) -> bool:
        """Put a rollout in place that the store does not know. False where somebody else was first."""
        event = self.event(rollout, rollout, "register", actor, reason, {})
        try:
            self.store.write(to_record(rollout), expect=None, event=event)
        except StaleRevision:
            return False
        return True

    def change(self, name: str, verb: str, transition: Transition, **how: Unpack[How]) -> Rollout:
        """As ``step``; returns the rollout as it is now."""
        return self.step(name, verb, transition, **how).after

    def step(
        self,
        name: str,
        verb: str,
        transition: Transition,
        *,
        actor: str,
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
        expect: int | None = None,
        lease: Lease | None = None,
    ) -> Step:
        """
        Apply *transition* to the rollout called *name*.

        Args:
            verb: what the audit trail calls it; ``rollback`` and ``emergency`` insist, others give way.
            expect: the revision that the decision was made on; None takes the one in the store.
            lease: what whoever acts for all must hold when it is written.
        Returns:
            the rollout that *transition* was applied to, and as it is now.
        Raises:
            StaleRevision: somebody else changed it first; says who and what.
            LeaseLost: somebody else decides now.
            TransitionRefused: its phase does not allow it.
            StoreUnavailable: nothing was changed, as far as we know.
        """
        for attempt in range(_ATTEMPTS):
            current = self.rollout(name) if verb in _INSISTENT else self.require(name, expect)
            changed = transition(current)
            event = self.event(current, changed, verb, actor, reason, evidence)
            try:
                self.store.write(to_record(changed), expect=current.revision, event=event, lease=lease)
            except StaleRevision:
                if verb not in _INSISTENT or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return Step(current, changed)
        raise AssertionError("unreachable")  # pragma: no cover

    def require(self, name: str, expect: int | None) -> Rollout:
        """The rollout called *name*. Raises StaleRevision, with who and what, where it is not at revision *expect*."""
        current = self.rollout(name)
        if expect not in (None, current.revision):
            raise stale(name, current.revision, expect, next(iter(self.store.history(name, 1)), None))
        return current

    def event(
        self,
        before: Rollout,
        after: Rollout,
        verb: str,
        actor: str,
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> Event:
        return Event(
            rollout=after.name,
            revision=after.revision,
            at_s=self.store.now(),
            actor=actor,
            verb=verb,
            before=summary_of(before),
            after=summary_of(after),
            reason=reason,
            evidence=evidence or {},
        )
