"""How long a benchmark may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """
    How much to measure.

    Attributes:
        processes: fresh interpreters per figure. What the memory layout of one of them favours, the others do not.
        rounds: pairs of rounds (ours, the peer's) in each of them.
        round_s: seconds of CPU that a round takes at least.
        starts: interpreters started per side, for the import time.
        requests: how many requests the memory figure sends: before it looks first, and until it looks again.
    """

    processes: int
    rounds: int
    round_s: float
    starts: int
    requests: tuple[int, int]


# Many short rounds, not a few long ones: shared machines change their speed by half within a second, and the two rounds
# of a pair shall see the same one.
FULL: Final = Effort(processes=3, rounds=41, round_s=0.008, starts=40, requests=(20_000, 120_000))
QUICK: Final = Effort(processes=1, rounds=31, round_s=0.006, starts=12, requests=(5_000, 25_000))
PROOF: Final = Effort(processes=1, rounds=2, round_s=0.0, starts=2, requests=(200, 400))
"""Proves that a benchmark runs; its figures mean nothing."""

EFFORTS: Final = {"full": FULL, "quick": QUICK, "proof": PROOF}
