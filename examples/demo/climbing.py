"""
The act in which nobody types after ``canary start``: a release that climbs by evidence, and one that is caught.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from canary_middleware.stores import open_store
from canary_middleware.stores.changes import Control

from .steering import type_command
from .traffic import Answer, Traffic, glance, users

if TYPE_CHECKING:
    from collections.abc import Mapping

    from canary_middleware._core.lifecycle.records import Event

    from .service import Service
    from .steering import Command

USERS: Final = 500
ENDS: Final = frozenset({"completed", "rolled_back"})
_WARM_S: Final = 1.0
_AFTER_S: Final = 1.5
_TIMEOUT_S: Final = 60.0
_ROLLOUT: Final = "recommendations"


@dataclass(frozen=True, slots=True)
class Climb:
    """
    One rollout from its start to its end.

    Attributes:
        answers: all answers, oldest first.
        start: the one command that was typed.
        events: the audit trail from the start on, oldest first, with each moment in seconds of the answers' clock.
        phase: how it ended.
    """

    answers: list[Answer]
    start: Command
    events: list[tuple[float, Event]]
    phase: str


def climb(service: Service, settings: Mapping[str, str]) -> Climb:
    """
    Let users come, start the rollout, and wait until it is over.

    Raises:
        TimeoutError: it was not, within a minute.
    """
    control = Control(open_store(settings["CANARY_STORE"]))
    # The audit trail goes by the wall clock, the answers by the monotonic one.
    offset = time.time() - time.monotonic()
    traffic = Traffic(service.url, [(user, glance) for user in users(USERS)], is_endless=True)
    try:
        with traffic.flowing():
            _wait(traffic, _WARM_S)
            command = type_command(("start",), 10.0, settings)
            phase = _until_over(control, traffic)
            _wait(traffic, _AFTER_S)
        trail = [event for event in reversed(control.store.history(_ROLLOUT)) if event.verb != "register"]
    finally:
        control.store.close()
    events = [(event.at_s - offset, event) for event in trail]
    return Climb(sorted(traffic.answers, key=lambda answer: answer.begun), command, events, phase)


def _until_over(control: Control, traffic: Traffic) -> str:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        phase = control.rollout(_ROLLOUT).phase
        if phase in ENDS:
            return phase
        _wait(traffic, 0.1)
    raise TimeoutError(f"the rollout was not over after {_TIMEOUT_S:g} s")


def _wait(traffic: Traffic, seconds: float) -> None:
    traffic.join(0.0)  # raises what a connection failed with
    threading.Event().wait(seconds)
