"""
What a tripped guardrail leads to in this process: first the weight here, then a word to everybody else.

Nothing here waits for a store: what it is to hear, the follower tells it.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .._core.evidence.guardrail import Guard, settings_of
from .._core.lifecycle import transitions
from .._troubles import logger
from ..errors import TransitionRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.evidence.guardrail import Trip
    from .._core.exchange import Exchange
    from .._core.lifecycle.rollout import Rollout
    from .served import Served

ACTOR: Final = "guardrail"

_TRANSITIONS: Final[dict[str, Callable[..., Rollout]]] = {
    "rollback": transitions.roll_back,
    "pause": transitions.pause,
    "hold": transitions.retreat,
}
_DONE: Final = {
    "rollback": "rolled back: everybody gets stable until somebody retries",
    "pause": "paused at its present weight",
    "hold": "on hold at its first stage's weight; rolled back if this lasts for two minutes",
    "warn": "going on, as its plan says",
}


class Guards:
    """
    The guards of one Canary's rollouts in one process.

    Args:
        canary: whose rollouts they are.
    """

    def __init__(self, canary: Served) -> None:
        self._canary = canary
        self._guards: dict[str, Guard] = {}

    def of(self, rollout: Rollout) -> Guard | None:
        """
        The guard for the next requests of *rollout*; None where there is nothing to watch or nothing to go back to.

        A change of weight keeps what was seen; a retry and other limits begin anew.
        """
        before = self._guards.get(rollout.name)
        is_useful = bool(rollout.plan.guardrails.limits) and not rollout.is_latched and rollout.stable_enabled
        if is_useful and before is not None and not before.is_over and before.settings == settings_of(rollout.plan):
            return before
        if before is not None:
            # Requests that are still under way end there, and must not condemn what comes after.
            before.is_over = True
            del self._guards[rollout.name]
        if not is_useful:
            return None
        # Entered twice where the collector ends an abandoned response in the middle of our arithmetic.
        guard = Guard(rollout.plan, threading.RLock(), self._trace_id)
        if not guard.is_watching:
            return None
        self._guards[rollout.name] = guard
        return guard

    def _trace_id(self, exchange: Exchange) -> str | None:
        recorder = self._canary.recorder
        if recorder is None:
            return None
        try:
            return recorder.trace_id(exchange)
        except Exception as error:  # noqa: BLE001 - a rollback must not depend on telemetry
            self._canary.troubles.report("telemetry", error, "a guardrail's evidence names no trace")
            return None

    def act(self, name: str, trip: Trip) -> None:
        """Do what *trip*, of the rollout called *name*, asks for: in force here when this returns."""
        if not trip.is_enforced:
            would = {**trip.evidence, "would": trip.action}
            self._tell(name, "dry-run", None, f"would {trip.action}: {trip.reason}", would)
            logger().warning("canary guardrail of %s, dry run, would %s: %s", name, trip.action, trip.reason)
            return
        made = _TRANSITIONS.get(trip.action)
        transition = None if made is None else partial(_applied, made, trip.reason)
        done = _DONE[trip.action]
        try:
            self._tell(name, trip.action, transition, trip.reason, trip.evidence)
        except TransitionRefused as error:
            done = f"left as it is: {error}"
            self._tell(name, "warn", None, trip.reason, trip.evidence)
        level = logger().error if trip.action == "rollback" else logger().warning
        level("canary guardrail of %s: %s. It is %s", name, trip.reason, done)

    def _tell(
        self,
        name: str,
        verb: str,
        transition: Callable[[Rollout], Rollout] | None,
        reason: str,
        evidence: Any,
    ) -> None:
        sharing = self._canary.sharing
        if sharing is not None:
            sharing.owe(name, verb, transition, actor=ACTOR, reason=reason, evidence=evidence)
        elif transition is not None:
            self._canary.change(verb, transition, rollout=name, actor=ACTOR, reason=reason)


def _applied(transition: Callable[..., Rollout], why: str, rollout: Rollout) -> Rollout:
    return transition(rollout, why)
