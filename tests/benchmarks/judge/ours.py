"""
Our judge in a simulated rollout: when it rolls back on a given schedule, and whether it promotes where it may decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from canary_middleware._core.evidence import Judge, settings_of
from canary_middleware._core.plan.schema import parse

from .seen import ticks_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from canary_middleware._core.evidence.tick import Tick
    from canary_middleware._core.lifecycle.progress import Finding

    from .traffic import Piece, Stream

WEIGHTS: Final = (0.05, 0.10, 0.25, 0.50)
"""Stages, as shares of the canary."""
MOST: Final = 20_000
"""Canary requests in which to promote."""
LEAST_PER_STAGE: Final = 1_000
LOOK_S: Final = 10
"""Seconds between two questions whether the stage has passed; whether to roll back is asked every second."""


class Judging(Protocol):
    """What the benchmark asks of a judge."""

    @property
    def is_condemned(self) -> bool: ...
    def enter(self, stage: int, stages: int) -> None: ...
    def observe(self, tick: Tick) -> None: ...
    def finding(self) -> Finding: ...


def default_judge() -> Judging:
    """The judge of a plan that says nothing but its stages: no criteria, no guardrails, no limits of its own."""
    (plan,) = parse({"schema": 1, "rollout": {"simulated": {"stages": [100 * weight for weight in WEIGHTS]}}}).rollouts
    return Judge(settings_of(plan, "v2"))


def rolled_back(judge: Judging, pieces: Iterable[Piece]) -> int | None:
    """The second in which *judge* condemns the canary; the weights of *pieces* are what they are."""
    weight = None
    stage = -1
    for piece in pieces:
        for tick in ticks_of(piece):
            if tick.weight_ppm != weight:
                weight, stage = tick.weight_ppm, stage + 1
                judge.enter(stage, len(WEIGHTS))
            judge.observe(tick)
            if judge.is_condemned:
                return int(tick.at_s)
    return None


def promoted(judge: Judging, stream: Stream) -> int | None:
    """
    Canary requests until the last stage has passed; None where *judge* rolls back, or is not convinced by MOST.

    A stage lasts for at least LEAST_PER_STAGE canary requests, and ends at the first look thereafter whose verdict is
    "pass".
    """
    total = 0
    for stage, weight in enumerate(WEIGHTS):
        judge.enter(stage, len(WEIGHTS))
        in_stage = 0
        while True:
            for tick in ticks_of(stream.draw(np.full(LOOK_S, weight))):
                judge.observe(tick)
                in_stage += tick.canary.requests
                if judge.is_condemned:
                    return None
            if total + in_stage > MOST:
                return None
            if in_stage >= LEAST_PER_STAGE and judge.finding().verdict == "pass":
                break
        total += in_stage
    return total
