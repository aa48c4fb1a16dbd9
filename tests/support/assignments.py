"""
What version a request may get: its bucket against the weights that were in force while it was under way.

A weight is possible from the moment somebody begins to set it until the next one is acknowledged by every worker. In
between both are: a request is checked against each weight that was possible at some time between its first byte sent
and its last byte received.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from canary_middleware._core.assignment.bucketing import BUCKETS, bucket

if TYPE_CHECKING:
    from collections.abc import Sequence

PPM: Final = BUCKETS // 100
"""Buckets per percent."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that is sent again and again: its bytes, the rollout that covers it, and its identity's bucket."""

    data: bytes
    rollout: str
    bucket: int


def ask(user: str, *, rollout: str = "shop", path: str = "/") -> Asked:
    """The request of *user*, whose bucket comes from the hash contract alone."""
    data = f"GET {path} HTTP/1.1\r\nhost: test\r\nx-user-id: {user}\r\n\r\n".encode()
    return Asked(data, rollout, bucket(user, salt=rollout))


@dataclass(slots=True)
class _Window:
    weight_ppm: int
    begin_s: float
    end_s: float = math.inf


@dataclass(slots=True)
class InForce:
    """
    The weights of one rollout over time, in percent; times are ``time.monotonic``.

    A service begins with nobody on the canary.
    """

    windows: list[_Window] = field(default_factory=lambda: [_Window(0, -math.inf)])

    def changing_to(self, percent: float) -> None:
        """From now on *percent* may be served too."""
        self.windows.append(_Window(round(percent * PPM), time.monotonic()))

    def acknowledged(self) -> None:
        """From now on only the last one may be served."""
        now_s = time.monotonic()
        for window in self.windows[:-1]:
            window.end_s = min(window.end_s, now_s)

    def refused(self) -> None:
        """The last one never came into force."""
        self.windows.pop()

    def between(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """The lowest and the highest weight, in ppm, that were possible at some time between the two."""
        possible = [w.weight_ppm for w in self.windows if w.begin_s <= end_s and w.end_s >= begin_s]
        return min(possible), max(possible)


def wrong(asked: Asked, version: str, allowed: tuple[int, int]) -> str | None:
    """What is wrong with *version* for that request; None where a weight within *allowed* (ppm) gives it."""
    lowest, highest = allowed
    if version == "v2" and asked.bucket >= highest:
        return f"{asked.rollout}: bucket {asked.bucket} got the canary, at a weight of at most {highest} ppm"
    if version == "v1" and asked.bucket < lowest:
        return f"{asked.rollout}: bucket {asked.bucket} got stable, at a weight of at least {lowest} ppm"
    return None if version in ("v1", "v2") else f"{asked.rollout}: answered by {version!r}"


def users(number: int) -> Sequence[Asked]:
    """The requests of *number* users."""
    return [ask(f"user-{n}") for n in range(number)]
