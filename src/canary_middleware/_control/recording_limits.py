"""
Whether what the app recorded keeps to the plan's limits on ``custom.<name>``.

A limit on a mean is decided by a confidence sequence: an interval that holds the true mean at all times at once, so
that looking every second costs nothing. It is asymptotic: good from about a hundred recordings on, fewer say nothing.
"""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.tallies import custom_of
from .findings import limit_test
from .ticks import ticks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._core.plan.schema import Criteria, Criterion
    from .findings import Kind, Test, Verdict

    Windows = Sequence[tuple[int, Mapping[str, Any]]]

ALPHA: Final = 0.01
"""Chance that a limit's interval ever misses the truth, in one stage; half of it on each side."""
LEAST: Final = 100
"""Recordings of a version (for those without a value: requests) before anything is said of it."""
_PREFIX: Final = "custom."
# Where the interval is narrowest for what it has seen; it holds everywhere.
_BEST_AT: Final = 1000
_LEAST_WINDOWS: Final = 20
# Sums of squares lose their last digits; a variance of less is taken for this share of the mean square.
_ROUNDING: Final = 1e-12
_COMPARED: Final = ("max_increase", "max_ratio")


class Interval(NamedTuple):
    """A mean, and between what it lies."""

    mean: float
    low: float
    high: float


def radius(n: float, variance: float, alpha: float) -> float:
    """
    Half the width of a confidence sequence on the mean of *n* values, at level 1 - *alpha*.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
    sequences" (arXiv:2103.06476), theorem 2.2, with ρ chosen to be narrow at about a thousand values.

    Args:
        n: > 0.
        variance: of one value, as estimated.
    """
    narrow = -2.0 * log(alpha)
    rho = (narrow + log(narrow + 1.0)) / _BEST_AT  # ρ²
    grown = n * rho + 1.0
    return sqrt(variance * 2.0 * grown / (n * n * rho) * log(sqrt(grown) / alpha))


class _Sum:
    """
    The mean of y per unit of x, and how much it varies, from windows of both.

    The variance is the greater of that between single values and that between windows: values of one moment, or of one
    user's visit, may be alike, and then count for less than as many independent ones.
    """

    __slots__ = ("units", "windows", "xx", "y", "yx", "yy")

    def __init__(self, saved: Sequence[float] = (0, 0.0, 0.0, 0.0, 0.0, 0.0)) -> None:
        self.windows, self.units, self.y, self.xx, self.yx, self.yy = saved

    def add(self, units: float, y: float) -> None:
        if units > 0:
            self.windows += 1
            self.units += units
            self.y += y
            self.xx += units * units
            self.yx += y * units
            self.yy += y * y

    def plain(self) -> list[float]:
        return [self.windows, self.units, self.y, self.xx, self.yx, self.yy]

    @property
    def mean(self) -> float:
        return self.y / self.units

    def between(self) -> float:
        """The variance of one unit by how much windows differ; 0 where there are too few."""
        if self.windows < _LEAST_WINDOWS:
            return 0.0
        mean = self.mean
        found = (self.yy - 2.0 * mean * self.yx + mean * mean * self.xx) / self.units
        return found * self.windows / (self.windows - 1.0)


class _Side:
    """What one version recorded under one name."""

    __slots__ = ("squares", "times", "values")

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        found = saved or {}
        self.values = _Sum(*([found["values"]] if saved else []))
        self.times = _Sum(*([found["times"]] if saved else []))
        self.squares = float(found.get("squares", 0.0))

    def plain(self) -> dict[str, Any]:
        return {"values": self.values.plain(), "times": self.times.plain(), "squares": self.squares}

    def count(self, is_counter: bool) -> int:
        """How many units there are: recordings, or for a counter requests."""
        return int(self.times.units if is_counter else self.values.units)

    def interval(self, is_counter: bool, alpha: float) -> Interval:
        """Call with at least one unit."""
        return self._rate(alpha) if is_counter else self._mean(alpha)

    def _mean(self, alpha: float) -> Interval:
        values = self.values
        square = self.squares / values.units
        variance = max(square - values.mean**2, _ROUNDING * square, values.between())
        half = radius(values.units, variance, alpha)
        return Interval(values.mean, values.mean - half, values.mean + half)

    def _rate(self, alpha: float) -> Interval:
        """
        Events are counted, so their variance is in proportion to their rate.

        Above the rate that was seen it is taken at the interval's end, for with the rate that was seen it would be 0
        where none was seen yet, and the interval a point.
        """
        rate = self.times.mean
        spread = max(1.0, self.times.between() / rate) if rate else 1.0
        half = radius(self.times.units, spread, alpha)
        root = sqrt(half * half + 4.0 * rate)
        return Interval(rate, max(0.0, rate - half * sqrt(rate)), ((root + half) / 2.0) ** 2)


class Recorded:
    """
    What two versions recorded in a stage, under the names that the plan has limits on.

    Args:
        rollout, stable, canary: names.
        state: of another's ``state``; it goes on exactly where that one was.
    """

    def __init__(self, rollout: str, stable: str, canary: str, state: Mapping[str, Any] | None = None) -> None:
        self._rollout, self._versions = rollout, (stable, canary)
        self._sides: dict[str, tuple[_Side, _Side]] = {
            name: (_Side(sides[0]), _Side(sides[1])) for name, sides in (state or {}).items()
        }

    def state(self) -> dict[str, Any]:
        """All of it as plain data, fit for JSON; bounded by the plan."""
        return {name: [side.plain() for side in sides] for name, sides in self._sides.items()}

    def add(self, windows: Windows, *criteria: Criteria) -> None:
        """
        Take in windows of counts, each once.

        Args:
            windows: (beginning in Unix seconds, merged counts), as ``Store.counts`` gives them.
            criteria: what asks for the names that are looked at; one that is new is known from here on.
        """
        names = {limit.metric.removeprefix(_PREFIX) for one in criteria for limit in _custom(one)}
        if not names:
            return
        stable, canary = self._versions
        for window in windows:
            for tick in ticks_of([window], self._rollout, stable, canary, lambda _: 0):
                for name in names:
                    sides = self._sides.setdefault(name, (_Side(), _Side()))
                    requests = (tick.stable.requests, tick.canary.requests)
                    for side, version, n in zip(sides, self._versions, requests, strict=True):
                        moments = custom_of(window[1], self._rollout, version, name)
                        side.values.add(moments.n, moments.total)
                        side.squares += moments.squares
                        # A request may end in the window after its recording: over many it evens out.
                        side.times.add(n, moments.times)

    def findings(self, criteria: Criteria, *, kind: Kind = "criterion") -> list[Test]:
        """One test for each bound of *criteria*'s limits on ``custom.<name>``."""
        return [self._test(limit, bound, kind) for limit in _custom(criteria) for bound, _ in limit.limits]

    def _test(self, criterion: Criterion, bound: str, kind: Kind) -> Test:
        name = criterion.metric.removeprefix(_PREFIX)
        sides = self._sides.get(name, (_Side(), _Side()))
        is_counter, problem = self._kind(name, sides)
        needed = (1, 0) if bound in _COMPARED else (1,)
        problem = problem or self._too_few(name, [(sides[n], self._versions[n]) for n in needed], is_counter)
        if problem is not None:
            return limit_test(criterion, bound, kind, "inconclusive", None, problem)
        alpha = ALPHA / len(needed)
        found = [sides[n].interval(is_counter, alpha) for n in needed]
        verdict, value = _compared(bound, criterion.limit(bound) or 0.0, found)
        said = self._said(criterion, bound, found, is_counter, verdict)
        return limit_test(criterion, bound, kind, verdict, value, said)

    def _kind(self, name: str, sides: tuple[_Side, _Side]) -> tuple[bool, str | None]:
        """Whether it is recorded without a value, and what is wrong with how it is recorded."""
        values = any(side.values.units for side in sides)
        times = any(side.times.y for side in sides)
        if values and times:
            return False, f"{name} is recorded with a value and without one: make it one or the other"
        if not values and not times:
            return False, f'recordings of {name}: the app makes them with canary.record("{name}", …)'
        return times, None

    def _too_few(self, name: str, sides: Sequence[tuple[_Side, str]], is_counter: bool) -> str | None:
        for side, version in sides:
            left = LEAST - side.count(is_counter)
            if left > 0:
                what = f"requests to {version} to judge {name}" if is_counter else f"recordings of {name} by {version}"
                return f"{left} more {what}"
        return None

    def _said(
        self, criterion: Criterion, bound: str, found: Sequence[Interval], is_counter: bool, verdict: Verdict
    ) -> str:
        if verdict == "pass":
            return ""
        stable, canary = self._versions
        unit = "per request" if is_counter else "on average"
        state = "does not hold" if verdict == "fail" else "is not clear yet"
        shown = f"{canary} has {_range(found[0])} {unit}"
        against = f" against {_range(found[1])} of {stable}" if len(found) > 1 else ""
        return f"{criterion.metric} {bound} {criterion.limit(bound):g} {state}: {shown}{against}"


def custom_findings(
    windows: Windows, criteria: Criteria, rollout: str, stable: str, canary: str, *, kind: Kind = "criterion"
) -> list[Test]:
    """
    What all *windows* of a stage say of *criteria*'s limits on ``custom.<name>``, at one look.

    ``Recorded`` says the same to whoever gets the windows one after another.
    """
    recorded = Recorded(rollout, stable, canary)
    recorded.add(windows, criteria)
    return recorded.findings(criteria, kind=kind)


def _custom(criteria: Criteria) -> list[Criterion]:
    return [limit for limit in criteria.limits if limit.metric.startswith(_PREFIX)]


def _compared(bound: str, limit: float, found: Sequence[Interval]) -> tuple[Verdict, float | None]:
    """The verdict on one bound, and the figure that stands against it."""
    canary, stable = found[0], found[-1]
    if bound == "min":
        return _verdict(limit - canary.high, limit - canary.low), canary.mean
    if bound == "max":
        return _verdict(canary.low - limit, canary.high - limit), canary.mean
    if bound == "max_increase":
        low, high = canary.low - stable.high, canary.high - stable.low
        return _verdict(low - limit, high - limit), canary.mean - stable.mean
    if stable.mean <= 0.0:  # so many times nothing, or less than nothing, is no limit
        return "inconclusive", None
    return (
        _verdict(canary.low - limit * stable.high, canary.high - limit * stable.low),
        canary.mean / stable.mean,
    )


def _verdict(low: float, high: float) -> Verdict:
    """Of an interval for what is beyond the limit: all above 0, all below, or neither."""
    return "fail" if low > 0.0 else "pass" if high <= 0.0 else "inconclusive"


def _range(found: Interval) -> str:
    return f"{found.mean:.4g} ({found.low:.4g} to {found.high:.4g})"
