"""
Windows of counts: how wide they are by age, and how two become one.

Fresh ones are as narrow as they came, so that a judge sees the last minutes second by second; older ones are merged,
so that a store stays small however long it lives.
"""

from __future__ import annotations

from typing import Final

KEEP_S: Final = 8 * 86_400
"""Windows that began longer ago are dropped: a week, and a day to look at it."""
SWEEP_S: Final = 60
"""How often a store merges what has aged."""
TIERS: Final = ((3600, 3600), (60, 300))
"""(width, age) in seconds: a window of that width stands for its parts once all of it is older than that age."""


def place(window_s: int, now_s: float) -> int | None:
    """Where the window that began at *window_s* is kept at *now_s*; None where it has expired."""
    if window_s < now_s - KEEP_S:
        return None
    for width, age in TIERS:
        begin = window_s - window_s % width
        if begin + width <= now_s - age:
            return begin
    return window_s
