"""
The act in which somebody types: three commands while traffic runs, and the moment at which the split follows each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .traffic import Traffic, glance, users

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .service import Service
    from .traffic import Answer

USERS: Final = 500
# Long enough to see each weight for a while, short enough to watch.
PAUSE_S: Final = 0.8
COMMANDS: Final = (
    (("start",), 10.0),
    (("set", "50", "--reason", "looks good"), 50.0),
    (("rollback", "--reason", "enough for a demo"), 0.0),
)
"""The words behind ``canary``, and the weight in percent that they lead to."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it went: when it was typed and when it returned (seconds of one clock), and what it printed."""

    words: tuple[str, ...]
    weight: float
    typed: float
    returned: float
    output: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Run:
    """All answers, oldest first, and the commands that were typed meanwhile."""

    answers: list[Answer]
    commands: list[Command]


def steer(service: Service, settings: Mapping[str, str]) -> Run:
    """Let users come and come again, and type the commands one after the other."""
    traffic = Traffic(service.url, [(user, glance) for user in users(USERS)], is_endless=True)
    done: list[Command] = []
    with traffic.flowing():
        _wait(traffic)
        for words, weight in COMMANDS:
            done.append(type_command(words, weight, settings))
            _wait(traffic)
    return Run(sorted(traffic.answers, key=lambda answer: answer.begun), done)


def _wait(traffic: Traffic) -> None:
    traffic.join(0.0)  # raises what a connection failed with
    threading.Event().wait(PAUSE_S)


def type_command(words: tuple[str, ...], weight: float, settings: Mapping[str, str]) -> Command:
    """Run ``canary`` with *words*, as a person at a terminal would; it leads to *weight* percent."""
    environ = {**os.environ, **settings, "CANARY_ACTOR": "you", "COLUMNS": "90"}
    typed = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "canary_middleware.cli", *words],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    output = (ran.stdout + ran.stderr).strip()
    return Command(words, weight, typed, time.monotonic(), output, ran.returncode)


def followed_s(service: Service, run: Run, number: int) -> float:
    """
    Seconds from typing command *number* until the last answer by the old weight was asked for.

    Only users whose version differs between the two weights can tell.
    """
    command = run.commands[number]
    before = run.commands[number - 1].weight if number else 0.0
    old = [
        answer.begun
        for answer in between(run, command.typed, command.returned + PAUSE_S)
        if is_canary_at(service, answer.user, before) != is_canary_at(service, answer.user, command.weight)
        and (answer.version == "v2") == is_canary_at(service, answer.user, before)
    ]
    return max(old, default=command.typed) - command.typed


def between(run: Run, begin: float, end: float) -> list[Answer]:
    """Answers whose request left in that stretch of time."""
    return [answer for answer in run.answers if begin <= answer.begun < end]


def is_canary_at(service: Service, user: str, weight: float) -> bool:
    """Whether the hash puts *user* on v2 at *weight* percent, asked of nobody but the hash."""
    return float(service.expected.explain(user)["enters_at"]) <= weight


def settled(run: Run, number: int) -> Sequence[Answer]:
    """Answers asked for after command *number* had returned, and before the next was typed."""
    following = run.commands[number + 1].typed if number + 1 < len(run.commands) else float("inf")
    return between(run, run.commands[number].returned, following)
