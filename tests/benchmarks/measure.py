"""
Two ways to do the same, timed in turns, so that whatever else the machine does falls on both alike.

A round makes its requests beforehand and untimed. What is timed is the CPU of the thread that serves them, which does
not move when a neighbour takes the processor away.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effort import Effort

    Prepare = Callable[[int], Callable[[], object]]
    """Makes *n* fresh requests and gives back what serves them."""

_FEWEST: Final = 20
# By then everything is imported, cached and specialised that a process prepares at its first requests.
_WARM: Final = 500
# A round never holds more requests than this in memory: larger ones would measure the caches instead.
_MOST: Final = 20_000


@dataclass(slots=True, kw_only=True)
class Timings:
    """
    What was read, round by round; the two lists are parallel.

    Attributes:
        unit: of both.
        ours, peer: one reading per round. Without a peer the value itself is the figure.
    """

    unit: str = "µs"
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)


def _nothing() -> None: ...


def compare(
    ours: Prepare,
    peer: Prepare,
    effort: Effort,
    *,
    settle: Callable[[], object] = _nothing,
    clock: Callable[[], float] = time.thread_time,
) -> Timings:
    """
    Time *ours* and *peer* in turns.

    Args:
        settle: called after each round, untimed: queues are emptied here.
        clock: seconds.
    Returns:
        µs per request, one reading per round and side.
    """
    sides = (ours, peer)
    counts = [_calibrated(side, effort, settle, clock) for side in sides]
    found = Timings()
    for number in range(effort.rounds):
        # A B, B A, A B …: a machine that grows slower is unfair to neither.
        order = (0, 1) if number % 2 == 0 else (1, 0)
        read = [0.0, 0.0]
        for side in order:
            read[side] = _round(sides[side], counts[side], settle, clock) / counts[side] * 1e6
        found.ours.append(read[0])
        found.peer.append(read[1])
    return found


def _calibrated(side: Prepare, effort: Effort, settle: Callable[[], object], clock: Callable[[], float]) -> int:
    """How many requests make a round, once everything is warm."""
    _round(side, _WARM if effort.round_s else _FEWEST, settle, clock)
    count = _FEWEST
    while True:
        took = _round(side, count, settle, clock)
        if took >= effort.round_s or count >= _MOST:
            return count
        count = min(_MOST, max(count * 2, int(count * effort.round_s / max(took, 1e-6) * 1.1)))


def _round(side: Prepare, count: int, settle: Callable[[], object], clock: Callable[[], float]) -> float:
    serve = side(count)
    gc.collect()
    # The prepared requests are ours, not the server's: its collector shall not walk them again and again. Not undone,
    # so that the collection before the next round is a short one.
    gc.freeze()
    started = clock()
    serve()
    took = clock() - started
    settle()
    return took
