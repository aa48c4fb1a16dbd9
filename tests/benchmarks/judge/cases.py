"""What is simulated, and what must come out: the lines of the table, in its order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from .ours import WEIGHTS
from .traffic import RATE, Traffic, Users

if TYPE_CHECKING:
    from .traffic import Numbers

PER_STAGE: Final = 5_000
"""Canary requests of each stage, where the schedule is given: 1,000, 500, 200 and 100 s."""
GOOD_S: Final = 3_600
AFTER_S: Final = 4_000
"""Of a late regression, at the first weight: 18,000 canary requests before its onset, 20,000 after."""
CROWD: Final = Users()
ALIKE: Final = replace(CROWD, zipf=0.7, alike=0.01, pace=0.3)
HEAVY: Final = replace(CROWD, count=60, zipf=1.0)

Measure = Literal["false", "caught", "promoted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """
    One kind of rollout.

    Attributes:
        name: also a part of its seeds.
        promotes: whether it is played a second time with our judge choosing when to advance.
    """

    name: str
    traffic: Traffic
    promotes: bool = False

    def schedule(self) -> Numbers:
        """The weight in each second, where it is given."""
        if self.traffic.onset_s:
            return np.full(GOOD_S + AFTER_S, WEIGHTS[0])
        return np.repeat(WEIGHTS, [round(PER_STAGE / (RATE * weight)) for weight in WEIGHTS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """
    One line of the table.

    Attributes:
        measure: what the figure is: share rolled back, median of canary requests until then, or share promoted.
        target: at most so much, or at least where *is_least*; None where nothing is asked for.
        share: where requests are counted, the share of rollouts that must be caught.
    """

    title: str
    case: str
    measure: Measure
    target: float | None = None
    is_least: bool = False
    share: float = 0.5


_HEALTHY = {"0.1 %": 0.001, "0.5 %": 0.005, "2 %": 0.02}
_LATE = float(GOOD_S)

CASES: Final = {
    case.name: case
    for case in (
        *(Case(name=f"healthy {name}", traffic=Traffic(base=base), promotes=True) for name, base in _HEALTHY.items()),
        *(
            Case(name=f"users {name}", traffic=Traffic(base=base, users=CROWD), promotes=True)
            for name, base in _HEALTHY.items()
        ),
        Case(name="alike users", traffic=Traffic(users=ALIKE), promotes=True),
        Case(name="heavy users", traffic=Traffic(users=HEAVY)),
        Case(name="drift", traffic=Traffic(drifts=True)),
        Case(name="bursts", traffic=Traffic(bursts=True)),
        Case(name="errors late", traffic=Traffic(error=0.05, onset_s=_LATE)),
        Case(name="slow late", traffic=Traffic(slower=2.0, onset_s=_LATE)),
        Case(name="errors 20 %", traffic=Traffic(error=0.2)),
        Case(name="errors 5 %", traffic=Traffic(error=0.05)),
        Case(name="errors 2 %", traffic=Traffic(error=0.02)),
        Case(name="errors 1 %", traffic=Traffic(error=0.01), promotes=True),
        Case(name="slow × 2", traffic=Traffic(slower=2.0)),
        Case(name="slow + 25 %", traffic=Traffic(slower=1.25)),
        Case(name="slow + 10 %", traffic=Traffic(slower=1.1)),
        Case(name="hanging", traffic=Traffic(hanging=0.08)),
    )
}

_AT_LEAST = {"0.1 %": 0.99, "0.5 %": 0.99, "2 %": 0.9}

LINES: Final = (
    *(
        Line(title=f"healthy, base error {name}: rolled back", case=f"healthy {name}", measure="false", target=0.005)
        for name in _HEALTHY
    ),
    *(
        Line(title=f"the same by user, {name}: rolled back", case=f"users {name}", measure="false", target=0.005)
        for name in _HEALTHY
    ),
    Line(title="users much alike: rolled back", case="alike users", measure="false"),
    Line(title="60 very heavy users: rolled back", case="heavy users", measure="false", target=0.015),
    Line(title="both versions drift: rolled back", case="drift", measure="false", target=0.007),
    Line(title="shared bursts: rolled back", case="bursts", measure="false", target=0.005),
    Line(title="errors 0.5 → 5 % after a good hour", case="errors late", measure="caught", target=450),
    Line(title="p95 × 2 after a good hour", case="slow late", measure="caught", target=110),
    Line(title="errors 0.5 → 20 %", case="errors 20 %", measure="caught", target=25),
    Line(title="errors 0.5 → 5 %", case="errors 5 %", measure="caught", target=140),
    Line(title="errors 0.5 → 2 %", case="errors 2 %", measure="caught", target=700),
    Line(title="errors 0.5 → 1 %", case="errors 1 %", measure="caught", target=4_500, share=0.97),
    Line(title="p95 × 2", case="slow × 2", measure="caught", target=65),
    Line(title="p95 + 25 %", case="slow + 25 %", measure="caught", target=290),
    Line(title="p95 + 10 %", case="slow + 10 %", measure="caught", target=2_200),
    Line(title="8 % of requests + 1.5 s", case="hanging", measure="caught", target=130),
    Line(title="worse by the margin (0.5 → 1 %): promoted", case="errors 1 %", measure="promoted", target=0.05),
    *(
        Line(
            title=f"healthy, base error {name}: promoted",
            case=f"healthy {name}",
            measure="promoted",
            target=_AT_LEAST[name],
            is_least=True,
        )
        for name in _HEALTHY
    ),
    *(Line(title=f"the same by user, {name}: promoted", case=f"users {name}", measure="promoted") for name in _HEALTHY),
    Line(title="users much alike: promoted", case="alike users", measure="promoted"),
)
