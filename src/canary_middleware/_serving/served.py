"""
What the parts that serve may ask of the app's rollouts; the façade is one, and so is whatever a test makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core.lifecycle.rollout import Assignment, Rollout, Variants
    from .._core.plan.schema import Plan, RolloutPlan
    from .._core.ports import Recorder
    from .._core.tallies import Key, Moments
    from .._troubles import Troubles
    from .counts import Counts


class Owing(Protocol):
    """This process's side of a store that is told later of what holds here already."""

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
        """Change a rollout here and now, and leave it to the follower to tell the store."""
        ...


class Records(Protocol):
    """What the app recorded beside its requests."""

    def snapshot(self) -> dict[Key, Moments]:
        """Everything so far; monotone from one call to the next."""
        ...


class Served(Protocol):
    """One or several rollouts as this process serves them."""

    counts: Counts
    troubles: Troubles

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""
        ...

    @property
    def sharing(self) -> Owing | None:
        """This process's side of the store; None without one."""
        ...

    @property
    def variants(self) -> Variants:
        """The interning table of this process."""
        ...

    @property
    def recorder(self) -> Recorder | None:
        """Where telemetry goes; None where it goes nowhere."""
        ...

    @property
    def recordings(self) -> Records | None:
        """What the app recorded beside its requests."""
        ...

    @property
    def plan_problem(self) -> str | None:
        """What is wrong with the plan file; None where all is well."""
        ...

    def rollout(self, name: str | None = None) -> Rollout:
        """The rollout called *name*, as served now."""
        ...

    def rollouts(self) -> tuple[Rollout, ...]:
        """All of them, as served now."""
        ...

    def declared(self, name: str) -> RolloutPlan:
        """The plan as this process's own file or code says it."""
        ...

    def is_declared(self, name: str) -> bool:
        """Whether the plan (still) holds that rollout."""
        ...

    def redeclare(self, plan: Plan) -> dict[str, RolloutPlan]:
        """Take what the plan file says now; the plans, until now, of those that changed."""
        ...

    def serve(self, rollout: Rollout) -> None:
        """Let the next request see *rollout*, as a store holds it."""
        ...

    def assign(self, identity: str | None, *, rollout: str | None = None) -> Assignment:
        """The assignment of *identity*, outside a request."""
        ...

    def change(
        self,
        verb: str,
        transition: Callable[[Rollout], Rollout],
        *,
        rollout: str | None = None,
        actor: str = "app",
        reason: str = "",
        expect: int | None = None,
    ) -> Rollout:
        """Apply *transition*; the next request sees it."""
        ...
