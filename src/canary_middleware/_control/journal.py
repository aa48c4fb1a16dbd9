"""
The course of a rollout's present run, for reports: points in time, and what each stage has seen in all.

Bounded: when it is full every second point goes, so that a week and an hour take the same room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.evidence import Judge
    from .._core.evidence.totals import Totals
    from .._core.lifecycle.rollout import Rollout

SCHEMA: Final = 1
MOST_POINTS: Final = 240
_FIRST_EVERY_S: Final = 2.0


class Journal:
    """
    What is noted of one run.

    Args:
        rollout: its name.
        saved: what ``plain`` of another said, to go on from.
    """

    def __init__(self, rollout: str, saved: Mapping[str, Any] | None = None) -> None:
        self.note = f"journal:{rollout}"
        """The name under which a store keeps it."""
        self._rollout = rollout
        known: Mapping[str, Any] = saved if saved is not None and saved.get("schema") == SCHEMA else {}
        self._points: list[list[Any]] = list(known.get("points", ()))
        self._stages: list[dict[str, Any]] = list(known.get("stages", ()))
        self._every_s = float(known.get("every_s", _FIRST_EVERY_S))
        self._judges: Mapping[str, Judge] = {}

    def enter(self, place: tuple[int, float], judges: Mapping[str, Judge]) -> None:
        """A stage begins: its index, and when in Unix seconds."""
        self._settle()
        stage, began_s = place
        if self._stages and self._stages[-1]["ended_s"] is None:
            self._stages[-1]["ended_s"] = began_s
        self._stages.append({"stage": stage, "began_s": began_s, "ended_s": None, "stable": {}, "canary": {}})
        self._judges = judges

    def note_point(self, now_s: float, rollout: Rollout, judges: Mapping[str, Judge]) -> None:
        """How things stand, if it is time for a point."""
        self._judges = judges
        if self._points and now_s - self._points[-1][0] < self._every_s:
            return
        self._points.append(
            [round(now_s, 1), rollout.stage, rollout.effective_ppm, {v: _point(judge) for v, judge in judges.items()}]
        )
        if len(self._points) > MOST_POINTS:
            del self._points[1::2]
            self._every_s *= 2

    def _settle(self) -> None:
        """Put what the judges know of the stage in force into its entry."""
        if not self._stages:
            return
        stage = self._stages[-1]
        for version, judge in self._judges.items():
            stage["stable"] = _totals(judge.stable)
            stage["canary"][version] = _totals(judge.canary)

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, fit for JSON."""
        self._settle()
        return {
            "schema": SCHEMA,
            "rollout": self._rollout,
            "every_s": self._every_s,
            "points": self._points,
            "stages": self._stages,
        }


def _point(judge: Judge) -> dict[str, Any]:
    stable, canary, comparison = judge.stable, judge.canary, judge.comparison
    e = {
        "rollback": judge.rollback_evidence,
        "errors": comparison.errors.evidence,
        "latency": comparison.latency,
        **{margin.name: judge.safety.evidence(margin) for margin in judge.safety.margins},
    }
    return {
        "e": {name: float(f"{value:.4g}") for name, value in e.items()},
        "requests": [stable.requests, canary.requests],
        "failures": [stable.failures, canary.failures],
        "p95_s": [stable.quantile_s(0.95), canary.quantile_s(0.95)],
    }


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "requests": totals.requests,
        "failures": totals.failures,
        "unavailable": totals.unavailable,
        "durations": {str(index): n for index, n in sorted(totals.durations.items())},
    }
