"""
For tests of apps that run under a Canary: force a version, read what happened, hold the clock; and of one's own store.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .stores.contract import StoreContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._core.exchange import Exchange
    from ._core.lifecycle.rollout import Assignment
    from .canary import Canary

__all__ = ["FakeClock", "Outcome", "StoreContract", "force", "recorded"]


@contextmanager
def force(canary: Canary, version: str, *, rollout: str | None = None) -> Iterator[None]:
    """
    Every covered request gets *version* meanwhile, also in a live server of the same process; with ``@`` too.

    It is above every latch and switch of the plan. Blocks may be nested; each restores what it found.

    Raises:
        ConfigError: no rollout (or not *rollout*) has that version.
    """
    undo = canary.force(version, rollout)
    try:
        yield
    finally:
        undo()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    How one request ended.

    Attributes:
        assignment: the version it was counted under, as decided.
        served_by: name of the version whose answer went out.
        status: HTTP status that the client got; 0 where it left before one.
        error_type: ``error.type`` of the version it is counted under, None unless that failed.
        duration_s: seconds from decision to last byte.
        is_aborted: the client left.
        fell_back: stable answered for the canary.
        missed: why stable could not (``"started"``, ``"body"``), or None.
    """

    assignment: Assignment
    served_by: str
    method: str
    route: str | None
    status: int
    error_type: str | None
    duration_s: float
    is_aborted: bool
    fell_back: bool
    missed: str | None


@contextmanager
def recorded(canary: Canary) -> Iterator[list[Outcome]]:
    """The outcomes of the requests that end meanwhile, in that order."""
    outcomes: list[Outcome] = []

    def observe(exchange: Exchange) -> None:
        outcomes.append(
            Outcome(
                assignment=exchange.decided,
                served_by=exchange.assignment.version,
                method=exchange.method,
                route=exchange.route,
                status=exchange.status,
                error_type=exchange.outcome_error,
                duration_s=exchange.duration,
                is_aborted=exchange.is_aborted,
                fell_back=exchange.failure is not None,
                missed=exchange.missed,
            )
        )

    stop = canary.observe(observe)
    try:
        yield outcomes
    finally:
        stop()


class FakeClock:
    """
    A clock that stands still until told. Give it as ``Canary(clock=clock, now=clock.now)``.

    Args:
        now_s: the Unix time it begins at.
    """

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._monotonic_s = 0.0
        self._now_s = now_s

    def __call__(self) -> float:
        """Monotonic seconds."""
        return self._monotonic_s

    def now(self) -> float:
        """Unix seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let *seconds* (≥ 0) pass on both."""
        if not seconds >= 0:
            raise ValueError(f"a clock advances by {seconds!r}: must be 0 or more; jump() moves the wall clock")
        self._monotonic_s += seconds
        self._now_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back by *seconds*, as an administrator or NTP does."""
        self._now_s += seconds
