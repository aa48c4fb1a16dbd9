"""
Whether the canary has been shown to be safe: not worse than stable by the margins that the plan allows.

Each margin has an e-process of its own against "worse by the margin"; a stage needs all of them.
"""

from __future__ import annotations

from math import exp, floor, log
from typing import TYPE_CHECKING, Final, NamedTuple

from ..plan.durations import BUCKETS, RATIO, bucket, upper_s
from . import errors, latency, promotion
from .dispersion import of_share
from .limit import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..plan.schema import Criteria
    from .past import Past
    from .tick import Side

ENOUGH: Final = 20.0
"""The e-value that the last stage before everybody asks for: a canary worse by a margin gets there 1 time in 20."""
DEFAULT_ERRORS: Final = 0.005
DEFAULT_P95: Final = 1.10
# A little beyond what is ever asked for, so that a late regression undoes it fast.
_MOST: Final = log(ENOUGH) + 2.0
_LEAST_MARGIN: Final = 1e-4


class Margin(NamedTuple):
    """
    How much worse is too much.

    Attributes:
        metric: ``error_rate``, ``p50``, ``p95`` or ``p99``.
        kind: ``max_increase`` (a rate as a fraction, a time in seconds) or ``max_ratio``.
    """

    metric: str
    kind: str
    value: float

    @property
    def name(self) -> str:
        """What evidence calls it."""
        return f"safe_{'errors' if self.metric == 'error_rate' else self.metric}" + (
            "_ratio" if self.metric == "error_rate" and self.kind == "max_ratio" else ""
        )

    def __str__(self) -> str:
        what = "errors" if self.metric == "error_rate" else self.metric
        if self.kind == "max_ratio":
            return f"{what} not above {self.value:g} times stable's"
        if self.metric == "error_rate":
            return f"errors not {self.value * 100:g} points above stable's"
        return f"{what} not {self.value * 1000:g} ms above stable's"


def margins_of(criteria: Criteria) -> tuple[Margin, ...]:
    """The margins of *criteria*; those for errors and p95 are there in any case."""
    found = [
        Margin(limit.metric, kind, value)
        for limit in criteria.limits
        if limit.metric == "error_rate" or limit.metric in QUANTILES
        for kind, value in limit.limits
        if kind in ("max_increase", "max_ratio")
    ]
    named = {margin.metric for margin in found}
    if "error_rate" not in named:
        found.append(Margin("error_rate", "max_increase", DEFAULT_ERRORS))
    if "p95" not in named:
        found.append(Margin("p95", "max_ratio", DEFAULT_P95))
    return tuple(found)


class Safety:
    """
    The evidence for each margin, as logarithms.

    Args:
        margins: of ``margins_of``.
        state: to go on from; margins that are new in the plan begin anew.
    """

    __slots__ = ("_logs", "margins")

    def __init__(self, margins: Sequence[Margin], state: Mapping[str, float] | None = None) -> None:
        self.margins = tuple(margins)
        saved: Mapping[str, float] = state or {}
        self._logs = {margin: float(saved.get(_key(margin), 0.0)) for margin in self.margins}

    def add(self, stable: Side, canary: Side, phis: tuple[float, float], past: Past, *, is_warm: bool) -> None:
        """Take in a tick in which both versions had requests; *past* is what was before it."""
        if past.requests < latency.LEAST[0.95]:
            return
        for margin in self.margins:
            if margin.metric == "error_rate":
                gain = _errors(margin, stable, canary, phis[0], past)
            elif is_warm:
                gain = _slowness(margin, stable, canary, phis[1], past)
            else:
                continue
            self._logs[margin] = min(self._logs[margin] + gain, _MOST)

    def temper(self, errors_power: float, before: float, after: float) -> None:
        """φ has risen, as for ``Comparison.temper``."""
        for margin, won in self._logs.items():
            if won > 0.0:
                q = QUANTILES.get(margin.metric)
                power = errors_power if q is None else min(1.0, of_share(before, q) / of_share(after, q))
                self._logs[margin] = won * power

    def evidence(self, margin: Margin) -> float:
        """The e-value that *margin* is kept."""
        return exp(self._logs[margin])

    def shortfall(self, margin: Margin, needed: float) -> float:
        """By how much the logarithm of the e-value is short of that of *needed*; 0 where it is there."""
        return max(0.0, log(needed) - self._logs[margin])

    def state(self) -> dict[str, float]:
        """What another goes on from."""
        return {_key(margin): won for margin, won in self._logs.items()}


def _key(margin: Margin) -> str:
    return f"{margin.metric} {margin.kind} {margin.value:g}"


def _errors(margin: Margin, stable: Side, canary: Side, phi: float, past: Past) -> float:
    x, y = canary.failures / phi, stable.failures / phi
    n_c, n_s = canary.requests / phi, stable.requests / phi
    if margin.kind == "max_ratio":
        return errors.log_factor_below(x, y, n_c, n_s, max(margin.value, 1.0 + _LEAST_MARGIN))
    allowed = max(margin.value, _LEAST_MARGIN)
    return promotion.log_factor(x, y, n_c, n_s, promotion.best_bet(past.rate, allowed, n_c / n_s), allowed)


def cut_below(past: Past, q: float) -> int:
    """
    The bucket above which at least a share 1 - q of stable's requests lies.

    One below the quantile's: where all requests take the same time, nothing would be above that.
    """
    return max(past.quantile(q) - 1, 0)


def cut_above(margin: Margin, cut: int) -> int:
    """The bucket beyond which a canary's request is slower than one of stable's in *cut* by the margin."""
    if margin.kind == "max_ratio":
        return min(cut + max(1, floor(log(margin.value) / log(RATIO) + 1e-9)), BUCKETS - 2)
    return min(max(cut + 1, bucket(upper_s(min(cut, BUCKETS - 2)) + margin.value)), BUCKETS - 2)


def _slowness(margin: Margin, stable: Side, canary: Side, phi: float, past: Past) -> float:
    q = QUANTILES[margin.metric]
    cut = cut_below(past, q)
    beyond = cut_above(margin, cut)
    phi = of_share(phi, q)
    x = sum(n for index, n in canary.durations.items() if index > beyond)
    y = sum(n for index, n in stable.durations.items() if index > cut)
    return latency.safe_log_factor(
        x / phi,
        y / phi,
        canary.requests / phi,
        stable.requests / phi,
        past.share_above(beyond),
        past.share_above(cut),
    )


def growth(margin: Margin, past: Past, ratio: float, phis: tuple[float, float]) -> float:
    """
    What the logarithm is expected to grow by with each canary request, if both versions are equal; > 0.

    Args:
        ratio: requests of the canary for each of stable's, > 0.
    """
    if margin.metric == "error_rate" and margin.kind == "max_increase":
        return max(promotion.growth(past.rate, max(margin.value, _LEAST_MARGIN), ratio) / phis[0], 1e-9)
    if margin.metric == "error_rate":
        rate = past.rate
        return max(errors.log_factor_below(rate, rate / ratio, 1.0, 1.0 / ratio, margin.value) / phis[0], 1e-9)
    q = QUANTILES[margin.metric]
    cut = cut_below(past, q)
    p_c, p_s = past.share_above(cut_above(margin, cut)), past.share_above(cut)
    gain = latency.safe_log_factor(p_c, p_s / ratio, 1.0, 1.0 / ratio, p_c, p_s)
    return max(gain / of_share(phis[1], q), 1e-9)
