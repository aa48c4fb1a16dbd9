"""
What may be changed: each verb a pure transition, decided on a revision, with its actor in the audit trail.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from .._control.people import SEVERITIES, TRANSITIONS, keep, obstacle, report_of, tests_of, to_do
from .._core.lifecycle import transitions
from .._core.plan.fields import Reader, percent
from .._views.acknowledged import change_of, wait_for_workers
from ..errors import ConfigError, StoreUnavailable, TransitionRefused
from .exchange import Problem
from .views import named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._control.people import Report
    from .._core.lifecycle.rollout import Rollout
    from ..canary import Canary
    from ..stores.changes import Control

    Transition = Callable[[Rollout], Rollout]

COMMON: Final = ("rollout", "reason", "revision", "wait")
"""The members that verbs have in common."""
_LONGEST_WAIT_S: Final = 5.0
_LONGEST_REASON: Final = 1000


def in_one_line(text: str) -> str:
    """*text* as a terminal may show it: the audit trail is read there, and an escape could hide a line of it."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


class Order:
    """
    One change that somebody asked for.

    Args:
        members: of the request's body.
        actor: who it is.
    """

    def __init__(self, canary: Canary, members: Mapping[str, Any], actor: str) -> None:
        self._problems: list[str] = []
        self.canary = canary
        self.reader = reader = Reader(members, "", self._problems)
        self.actor = actor
        self.reason = in_one_line(reader.text_or_off("reason", None) or "")
        self.revision = reader.integer("revision", -1)
        wait_s = min(reader.number("wait", least=0.0) or 0.0, _LONGEST_WAIT_S)
        self._away: str | None = None
        self._until = time.monotonic() + wait_s
        if len(self.reason) > _LONGEST_REASON:
            reader.add(f"reason has {len(self.reason)} characters: must have {_LONGEST_REASON} at most")

    def require_right(self) -> None:
        """Raise a Problem that names all that is wrong with the body."""
        self.reader.finish()
        if self._problems:
            raise Problem(400, "; ".join(self._problems))

    def carry_out(self, verb: str, transition: Transition, *, on_sight: bool = True) -> dict[str, Any]:
        """
        Change the rollout that the body names.

        Args:
            on_sight: whether the revision that it was decided on must be told.
        """
        wanted = self.reader.text("rollout", None)
        self.require_right()
        name = named(self.canary, wanted)
        if on_sight and self.revision < 0:
            raise Problem(400, f"revision must be there: {verb} is decided on a state; take it from GET status")
        return self.result(*self.change(name, verb, transition))

    def change(self, name: str, verb: str, transition: Transition) -> tuple[Rollout, Rollout]:
        """The rollout called *name* before and after it."""
        seen = [self.canary.rollout(name)]

        def apply(current: Rollout) -> Rollout:
            seen.append(current)
            return transition(current)

        # A rollback stops whatever there is, not only what its author has seen.
        expect = self.revision if self.revision >= 0 and verb not in _REGARDLESS else None
        after = self.canary.change(verb, apply, rollout=name, actor=self.actor, reason=self.reason, expect=expect)
        return seen[-1], after

    def result(self, before: Rollout, after: Rollout) -> dict[str, Any]:
        """What is said of a change; waits for the workers as long as the body asks for."""
        workers, problem = self._workers(after)
        return {**change_of(before, after), "workers": workers, "problem": problem}

    def _workers(self, after: Rollout) -> tuple[dict[str, Any] | None, str | None]:
        """Who serves it, and what is wrong."""
        control = self.canary.control
        if control is None or self._away is not None:
            return None, self._away
        left_s = max(0.0, self._until - time.monotonic())
        try:
            if _is_owed(control, after):
                return None, _only_here("it has not yet")
            found = wait_for_workers(control.store, after.name, after.revision, timeout_s=left_s)
        except StoreUnavailable as error:
            # Kept, so that an emergency does not wait for it once more for every rollout.
            self._away = _only_here(error)
            return None, self._away
        except ConfigError as error:
            return None, _only_here(error)
        return found.plain(), None


def _is_owed(control: Control, after: Rollout) -> bool:
    """Whether the store has not taken it: what needs the store was refused before, and a rollback does not."""
    return after.is_latched and not control.rollout(after.name).is_latched


def _only_here(why: object) -> str:
    return f"in force in this worker, and told to the others when the store takes it: {why}"


_REGARDLESS: Final = frozenset({"rollback", "emergency"})
"""Verbs that are carried out whatever the revision."""


def set_(order: Order) -> Any:
    """Set the weight by hand, in percent; the plan pauses there."""
    weight_ppm = order.reader.percent("weight", None)
    return order.carry_out("set", lambda current: _set_weight(order.canary, current, weight_ppm))


def _set_weight(canary: Canary, current: Rollout, weight_ppm: int) -> Rollout:
    served = canary.rollout(current.name)
    if served.pinned_ppm is not None:
        raise TransitionRefused(
            f"cannot set the weight of {served.name!r}: {served.plan.env.weight} in the environment pins it to "
            f"{percent(served.pinned_ppm):g} %; change or remove that variable and restart, or POST rollback"
        )
    return transitions.set_weight(current, weight_ppm)


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
    if "rollout" in order.reader:
        order.reader.any("rollout", None)
        order.reader.add("rollout must not be there: an emergency stops them all; POST rollback stops one")
    order.require_right()
    changed = _stop_all(order) if state == "on" else _let_go_all(order)
    # Only now: no rollout may have to wait until the workers of another have heard of theirs.
    return [order.result(before, after) for before, after in changed]


def _stop_all(order: Order) -> list[tuple[Rollout, Rollout]]:
    # Also what this worker takes to be stopped: somebody may have let it go a moment ago.
    before = order.canary.rollouts()
    order.canary.emergency(actor=order.actor, reason=order.reason)
    return [(rollout, order.canary.rollout(rollout.name)) for rollout in before]


def _let_go_all(order: Order) -> list[tuple[Rollout, Rollout]]:
    control = order.canary.control
    names = [rollout.name for rollout in order.canary.rollouts()]
    if control is None:
        locked = [name for name in names if order.canary.rollout(name).phase == "locked"]
        return [order.change(name, "emergency", transitions.unlock) for name in locked]
    # As the store has it, and in the store: this worker may not have heard of the latch yet.
    locked = [name for name in names if control.rollout(name).phase == "locked"]
    return [
        control.step(name, "emergency", transitions.unlock, actor=order.actor, reason=order.reason) for name in locked
    ]


def bug(order: Order) -> Any:
    """Report a bug of the canary; a severe one too many does at once what the plan's guardrail says."""
    severity = order.reader.choice("severity", "", SEVERITIES)
    if "severity" not in order.reader:
        order.reader.problem("severity", None, f"must be there: {' or '.join(SEVERITIES)}")
    return _report(order, "bug", severity)


def feedback(order: Order) -> Any:
    """Record what somebody says of the canary."""
    return _report(order, "feedback", None)


def _report(order: Order, verb: str, severity: str | None) -> Any:
    text = order.reader.text("text", None)
    if text is None:
        order.reader.problem("text", None, "must be there: say in a sentence what you saw")
    wanted = order.reader.text("rollout", None)
    order.require_right()
    try:
        said = report_of(verb, text or "", severity)
    except ConfigError as error:
        raise Problem(400, str(error)) from error
    name = named(order.canary, wanted)
    control = order.canary.control
    if control is None:
        raise TransitionRefused(
            f"{name!r} has no store, and so no audit trail to record it in: give its Canary a store"
        )
    rollout = control.rollout(name)
    keep(control, rollout, said, order.actor)
    tests = tests_of(control, rollout, said)
    change, note = _follow_up(order, rollout, said, to_do(tests))
    problem = None if change is None else change["problem"]
    return {
        "rollout": name,
        "verb": verb,
        **said.evidence,
        "tests": tests,
        "change": change,
        "note": note,
        "problem": problem,
    }


def _follow_up(
    order: Order, rollout: Rollout, said: Report, broken: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, str | None]:
    """Do what a broken guardrail asks for: what came of it, or why nothing was done."""
    if broken is None:
        return None, None
    why_not = obstacle(rollout)
    if why_not is not None:
        return None, f"no {broken['action']}: {why_not}"
    order.reason = order.reason or said.title
    transition = TRANSITIONS[broken["action"]]
    try:
        return order.result(
            *order.change(rollout.name, broken["action"], lambda current: transition(current, said.title))
        ), None
    except TransitionRefused as error:
        return None, f"no {broken['action']}: {error}"
