"""What the readings of one figure amount to."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .figures import Figure
    from .measure import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    A figure, measured or not.

    Attributes:
        ours, peer: medians over all rounds, in *unit*; peer is None where there is none.
        value: the figure itself: the median of the rounds' ratios, or *ours* without a peer.
        low, high: its quartiles over the rounds.
        problem: why there is none; everything but *figure* is then meaningless.
    """

    figure: Figure
    unit: str = ""
    ours: float = 0.0
    peer: float | None = None
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    rounds: int = 0
    problem: str | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without a target or a measurement."""
        if self.figure.target is None or self.problem is not None:
            return None
        return self.value <= self.figure.target


def result(figure: Figure, measured: Sequence[Timings]) -> Result:
    """All processes' rounds together."""
    ours = [reading for timings in measured for reading in timings.ours]
    peer = [reading for timings in measured for reading in timings.peer]
    values = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)] if peer else ours
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Result(
        figure=figure,
        unit=measured[0].unit,
        ours=median(ours),
        peer=median(peer) if peer else None,
        value=middle,
        low=low,
        high=high,
        rounds=len(values),
    )
