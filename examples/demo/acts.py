"""
The acts of the demo: which users come, and the wait until all that was measured has arrived.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import figures
from .traffic import Answer, Traffic, browse, glance, leave, talk, users

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .service import Service
    from .traffic import Visit

USERS: Final = 1_000
GLANCES: Final = 300
FAULT: Final = "every-3rd"
FAULT_EVERY: Final = 3
FAULT_WEIGHT: Final = 50

_DRIVE_TIMEOUT_S: Final = 45.0
_ARRIVE_TIMEOUT_S: Final = 10.0

Visitors = list[tuple[str, "Callable[[Visit], None]"]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the users saw, and how many seconds it took."""

    answers: list[Answer]
    elapsed_s: float


def everybody() -> Visitors:
    """A thousand users with three requests each, over all seven endpoints."""
    journeys = (browse, talk, leave)
    return [(user, journeys[number % 3]) for number, user in enumerate(users(USERS))]


def glancers() -> Visitors:
    """Users with one GET each, for the act in which v2 is broken."""
    return [(user, glance) for user in users(GLANCES)]


def play(service: Service, visitors: Visitors, watch: Callable[[Sequence[Answer]], None]) -> Outcome:
    """
    Let *visitors* come, call *watch* with the answers so far now and then, and wait until their telemetry has arrived.

    Raises:
        TimeoutError: the users were not done in time.
    """
    started = time.monotonic()
    traffic = Traffic(service.url, visitors)
    with traffic.flowing():
        while not traffic.join(0.1):
            watch(traffic.answers)
            if time.monotonic() - started > _DRIVE_TIMEOUT_S:
                raise TimeoutError(
                    f"{len(traffic.answers):,} requests were answered in {_DRIVE_TIMEOUT_S:g} s; giving up"
                )
    elapsed_s = time.monotonic() - started
    watch(traffic.answers)
    _arrival(service, len(traffic.answers))
    return Outcome(traffic.answers, elapsed_s)


def _arrival(service: Service, requests: int) -> None:
    otlp = service.otlp
    try:
        otlp.wait_for(
            lambda: otlp.histogram_count(figures.DURATION) >= requests and len(figures.server_spans(otlp)) >= requests,
            timeout=_ARRIVE_TIMEOUT_S,
        )
    except AssertionError:
        # The checks count for themselves and say what is missing.
        pass
