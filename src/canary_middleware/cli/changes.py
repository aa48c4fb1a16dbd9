"""
The verbs that change something: a pure transition, compared and set, and the wait for every live worker to serve it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from .._core.hints import hint, nearest
from .._core.lifecycle import transitions
from .._core.plan.fields import parse_percent, percent
from .._views.acknowledged import TIMEOUT_S, change_of, wait_for_workers
from .._views.lint import JUMP_PPM
from ..errors import CanaryError, ConfigError
from .completion import rollout_names
from .screen import changed_line
from .session import NEEDS_A_HUMAN, TIMEOUT, USAGE, fail, verb
from .views import show_stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.lifecycle.rollout import Rollout
    from ..stores.changes import Step
    from .session import Session

rollout_argument = click.argument("rollout", required=False, shell_complete=rollout_names)
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask before a jump of 50 points or more.")


def write(
    session: Session, name: str, word: str, transition: Callable[[Rollout], Rollout], *, expect: int | None = None
) -> Step:
    """Change a rollout in the store; the workers follow by themselves."""
    return session.control.step(name, word, transition, actor=session.actor, reason=session.reason, expect=expect)


def acknowledge(session: Session, change: Step, *, until: float | None = None) -> dict[str, Any]:
    """Wait for the workers, at most until that reading of the clock, and say what came of it; returns it, too."""
    before, after = change
    left_s = TIMEOUT_S if until is None else max(0.0, until - time.monotonic())
    found = wait_for_workers(session.control.store, after.name, after.revision, timeout_s=left_s)
    if not session.as_json:
        session.console.print(changed_line(before, after))
        level = "WARNING" if found.missing or found.silent or not found.served else "SUCCESS"
        session.say(level, found.sentence(after.revision))
        if found.pinned:
            session.say(
                "WARNING",
                f"the environment pins the weight in {', '.join(found.pinned)}: only a restart there changes it",
            )
    return {**change_of(before, after), "workers": found.plain()}


def _change(
    session: Session,
    name: str | None,
    word: str,
    transition: Callable[[Rollout], Rollout],
    *,
    seen: Rollout | None = None,
) -> None:
    """One change as a whole verb; *seen* is the state that the person decided on."""
    decided_on = seen or session.rollout(name)
    change = write(session, decided_on.name, word, transition, expect=None if seen is None else seen.revision)
    _finish(session, acknowledge(session, change))


def _finish(session: Session, *results: dict[str, Any]) -> None:
    if session.as_json:
        session.answer(results[0] if len(results) == 1 else list(results))
    if any(result["workers"]["missing"] for result in results):
        raise SystemExit(TIMEOUT)


def _confirm(session: Session, rollout: Rollout, weight_ppm: int, *, yes: bool) -> None:
    """Ask before a jump that most plans would take in several steps."""
    if yes or weight_ppm - rollout.effective_ppm < JUMP_PPM:
        return
    question = f"{rollout.name} jumps from {percent(rollout.effective_ppm):g} % to {percent(weight_ppm):g} %. Go on?"
    if not session.can_ask():
        fail(f"{question} There is no terminal to ask at: pass --yes", NEEDS_A_HUMAN)
    if not click.confirm(question):
        fail("nothing was changed", NEEDS_A_HUMAN)


def _number_first(words: tuple[str, ...], what: str) -> tuple[str, str | None]:
    """``25 checkout`` or ``checkout 25``: people type both."""
    if not 1 <= len(words) <= 2:
        raise click.UsageError(f"pass {what}, and the rollout's name where there are several")
    first, *rest = words
    if not rest:
        return first, None
    return (first, rest[0]) if _is_number(first) or not _is_number(rest[0]) else (rest[0], first)


def _is_number(word: str) -> bool:
    try:
        float(word.rstrip("%"))
    except ValueError:
        return False
    return True


def _weight(word: str) -> int:
    if not _is_number(word):
        raise ConfigError(f"weight {word!r}: must be a percentage from 0 to 100, such as 25 or 0.5")
    value = float(word.rstrip("%"))
    return parse_percent(int(value) if value.is_integer() else value, "weight")


@click.command()
@rollout_argument
@verb
def start(session: Session, rollout: str | None) -> None:
    """Enter the first stage of the plan."""
    _change(session, rollout, "start", transitions.start)


# A negative number would be taken for an option, and its error for a mistyped one.
@click.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, metavar="WEIGHT [ROLLOUT]")
@_yes
@verb
def set_(session: Session, words: tuple[str, ...], yes: bool) -> None:
    """Set the weight by hand, in percent; the plan pauses there."""
    weight, name = _number_first(words, "a weight in percent")
    ppm = _weight(weight)
    found = session.rollout(name)
    _confirm(session, found, ppm, yes=yes)
    _change(session, None, "set", lambda r: transitions.set_weight(r, ppm), seen=found)


@click.command("next")
@rollout_argument
@_yes
@verb
def next_(session: Session, rollout: str | None, yes: bool) -> None:
    """Enter the next stage (also: promote)."""
    _enter_next(session, rollout, yes=yes)


def _enter_next(session: Session, rollout: str | None, *, yes: bool) -> None:
    found = session.rollout(rollout)
    _confirm(session, found, transitions.advance(found).weight_ppm, yes=yes)
    _change(session, None, "promote", transitions.advance, seen=found)


@click.command()
@rollout_argument
@verb
def approve(session: Session, rollout: str | None) -> None:
    """Let the stage in force end, where the plan asks a person for that."""
    _change(session, rollout, "approve", transitions.approve)


@click.command()
@rollout_argument
@verb
def pause(session: Session, rollout: str | None) -> None:
    """Stop where it is until somebody resumes it."""
    _change(session, rollout, "pause", lambda r: transitions.pause(r, session.reason or "manual"))


@click.command()
@rollout_argument
@verb
def resume(session: Session, rollout: str | None) -> None:
    """Go on after a pause."""
    _change(session, rollout, "resume", transitions.resume)


@click.command()
@rollout_argument
@verb
def retry(session: Session, rollout: str | None) -> None:
    """Begin anew after a rollback, at the first stage."""
    _change(session, rollout, "retry", transitions.retry)


@click.command()
@rollout_argument
@click.option("--to-previous", is_flag=True, help="One stage down instead of to 0: 100 → 50 → 10 → 0.")
@verb
def rollback(session: Session, rollout: str | None, to_previous: bool) -> None:
    """Weight 0 now, until somebody retries (also: abort)."""
    if to_previous:
        # Not insisted on like a rollback: two people who step down at once must not go two stages down.
        _change(session, None, "step-down", transitions.step_down, seen=session.rollout(rollout))
    else:
        _change(session, rollout, "rollback", lambda r: transitions.roll_back(r, session.reason or "manual"))


@click.command()
@click.argument("state", type=click.Choice(["on", "off"]), default="on")
@verb
def emergency(session: Session, state: str) -> None:
    """Every rollout and override off, latched; `off` lifts the latch and leaves them rolled back."""
    transition = transitions.lock if state == "on" else transitions.unlock
    changes, problems = [], []
    for name in session.control.names():
        # One that cannot be read must not keep the others from being stopped.
        try:
            if (session.control.rollout(name).phase == "locked") != (state == "on"):
                changes.append(write(session, name, "emergency", transition))
        except CanaryError as error:
            problems.append(f"{name}: {error}")
    # Only now, when all are stopped, and with one deadline: no rollout waits for another's workers.
    until = time.monotonic() + TIMEOUT_S
    results = [acknowledge(session, change, until=until) for change in changes]
    if not results and not problems:
        session.say("INFO", f"nothing to do: the emergency latch is {state} everywhere already")
    if problems:
        fail("; ".join(problems), USAGE)
    if results:
        _finish(session, *results)
    elif session.as_json:
        session.answer([])


_WORDS: Final = ("list", "next", "pause", "resume", "approve", "retry")


@click.command()
@click.argument("words", nargs=-1, metavar="[list|N|next|pause|resume|approve|retry] [ROLLOUT]")
@_yes
@verb
def stage(session: Session, words: tuple[str, ...], yes: bool) -> None:
    """List the plan's stages, or move: into stage N (1 is the first), into the next, and so on."""
    word, name = _stage_words(words)
    if word == "list":
        show_stages(session, session.rollout(name))
    elif word == "next":
        _enter_next(session, name, yes=yes)
    elif word.isdecimal():
        found = session.rollout(name)
        number = int(word) - 1
        _confirm(session, found, transitions.go_to_stage(found, number).weight_ppm, yes=yes)
        _change(session, None, "stage", lambda r: transitions.go_to_stage(r, number), seen=found)
    elif word == "pause":
        _change(session, name, "pause", lambda r: transitions.pause(r, session.reason or "manual"))
    else:
        _change(session, name, word, getattr(transitions, word))


def _stage_words(words: tuple[str, ...]) -> tuple[str, str | None]:
    known = [word for word in words if word in _WORDS or word.isdecimal()]
    others = [word for word in words if word not in known]
    if len(known) > 1 or len(others) > 1 or (others and not known and len(words) == 1 and nearest(others[0], _WORDS)):
        wrong = others[0] if others else known[1]
        meant = hint(wrong, _WORDS, f"pass one of {', '.join(_WORDS)} or a stage's number")
        raise click.UsageError(f"stage {' '.join(words)}: {meant}")
    return (known[0] if known else "list"), (others[0] if others else None)


ALL: Final = (start, set_, next_, approve, pause, resume, retry, rollback, emergency, stage)
