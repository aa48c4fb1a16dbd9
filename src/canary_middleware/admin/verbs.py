"""
What may be changed: each verb a pure transition, decided on a revision, with its actor in the audit trail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..acknowledged import wait_for_workers
from ..core import transitions
from ..core.fields import percent
from ..errors import StoreUnavailable
from .exchange import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..canary import Canary
    from ..core.fields import Reader
    from ..core.rollout import Rollout

    Transition = Callable[[Rollout], Rollout]

_LONGEST_WAIT_S: Final = 5.0


class Order:
    """
    One change that somebody asked for.

    Args:
        reader: of the request's body.
        actor: who it is.
    """

    def __init__(self, canary: Canary, reader: Reader, actor: str) -> None:
        self.canary = canary
        self.reader = reader
        self.actor = actor
        self.name = reader.text("rollout", None)
        self.reason = reader.text_or_off("reason", None) or ""
        self.revision = reader.integer("revision", -1)
        self.wait_s = reader.number("wait", least=0.0) or 0.0

    def carry_out(self, verb: str, transition: Transition, *, on_sight: bool = True) -> dict[str, Any]:
        """
        Make the change.

        Args:
            on_sight: whether the revision that it was decided on must be told.
        """
        self.reader.finish()
        self.reader.raise_problems()
        name = self.canary.rollout(self.name).name
        if on_sight and self.revision < 0:
            raise Problem(400, f"revision must be there: {verb} is decided on a state; take it from GET status")
        before = self.canary.rollout(name)
        expect = self.revision if self.revision >= 0 else None
        after = self.canary.change(verb, transition, rollout=name, actor=self.actor, reason=self.reason, expect=expect)
        workers, problem = self._workers(after)
        return {
            "rollout": name,
            "revision": after.revision,
            "phase": after.phase,
            "phase_reason": after.phase_reason,
            "before": percent(before.effective_ppm),
            "weight": percent(after.effective_ppm),
            "workers": workers,
            "problem": problem,
        }

    def _workers(self, after: Rollout) -> tuple[dict[str, Any] | None, str | None]:
        """Who serves it, and what is wrong."""
        store = self.canary.store
        if store is None:
            return None, None
        try:
            found = wait_for_workers(store, after.name, after.revision, timeout_s=min(self.wait_s, _LONGEST_WAIT_S))
        except StoreUnavailable as error:
            # What needs the store was refused before; a rollback does not, and is owed to it.
            return None, f"in force in this worker, and told to the others when the store is back: {error}"
        return {
            "served": found.served,
            "missing": found.missing,
            "silent": found.silent,
            "pinned": found.pinned,
            "seconds": round(found.seconds, 3),
        }, None


def set_(order: Order) -> Any:
    """Set the weight by hand, in percent; the plan pauses there."""
    weight_ppm = order.reader.percent("weight", None)
    return order.carry_out("set", lambda current: transitions.set_weight(current, weight_ppm))


def start(order: Order) -> Any:
    """Enter the first stage."""
    return order.carry_out("start", transitions.start)


def advance(order: Order) -> Any:
    """Enter the next stage; after the last one bake, and then complete."""
    return order.carry_out("promote", transitions.advance)


def approve(order: Order) -> Any:
    """Let the stage in force end, where the plan asks a person for that."""
    return order.carry_out("approve", transitions.approve)


def pause(order: Order) -> Any:
    """Stop where it is until somebody resumes it."""
    why = order.reason or "manual"
    return order.carry_out("pause", lambda current: transitions.pause(current, why), on_sight=False)


def resume(order: Order) -> Any:
    """Go on after a pause."""
    return order.carry_out("resume", transitions.resume)


def retry(order: Order) -> Any:
    """Begin anew after a rollback, at the first stage."""
    return order.carry_out("retry", transitions.retry)


def rollback(order: Order) -> Any:
    """Weight 0 now, latched until somebody retries; with ``to_previous`` one stage down."""
    if order.reader.flag("to_previous", False):
        return order.carry_out("step-down", transitions.step_down)
    why = order.reason or "manual"
    return order.carry_out("rollback", lambda current: transitions.roll_back(current, why), on_sight=False)


def emergency(order: Order) -> Any:
    """Every rollout and override off, latched (``state`` = ``on``); ``off`` leaves them rolled back."""
    state = order.reader.choice("state", "on", ("on", "off"))
    transition = transitions.lock if state == "on" else transitions.unlock
    order.reader.finish()
    order.reader.raise_problems()
    results = []
    for rollout in order.canary.rollouts():
        if (rollout.phase == "locked") != (state == "on"):
            order.name = rollout.name
            results.append(order.carry_out("emergency", transition, on_sight=False))
    return results
