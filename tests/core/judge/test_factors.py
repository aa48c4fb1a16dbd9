"""
No bet may be expected to win while the canary is fine: each factor's expectation is at most 1, by exact enumeration.

Nothing is drawn: every outcome of a tick is weighed with its probability.
"""

from __future__ import annotations

from itertools import product
from math import comb, exp, isclose, log
from typing import TYPE_CHECKING

import pytest

from canary_middleware._core.evidence import errors, latency, promotion
from canary_middleware._core.evidence.balance import Balance
from canary_middleware._core.evidence.limit import Limit
from canary_middleware._core.evidence.onset import Onset, reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = [(1, 1), (1, 9), (5, 20), (12, 12), (20, 3)]
RATES = [0.0, 0.001, 0.02, 0.3, 0.9, 1.0]
JUST = 1 + 1e-9


def binomial(n: int, p: float) -> Iterator[tuple[int, float]]:
    for k in range(n + 1):
        yield k, comb(n, k) * p**k * (1 - p) ** (n - k)


def expected(n_c: int, n_s: int, p_c: float, p_s: float, factor: Callable[[int, int], float]) -> float:
    """The mean of exp(factor) over all (x, y), failures of canary and stable."""
    pairs = product(binomial(n_c, p_c), binomial(n_s, p_s))
    return sum(px * py * exp(factor(x, y)) for (x, px), (y, py) in pairs if px * py > 0)


@pytest.mark.parametrize(("n_c", "n_s"), SIZES)
@pytest.mark.parametrize("p_s", RATES)
@pytest.mark.parametrize("better", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("phi", [1.0, 1.7])
def test_more_errors_are_never_expected_of_a_canary_within_the_tolerance(
    n_c: int, n_s: int, p_s: float, better: float, phi: float
) -> None:
    p_c = min(1.0, p_s * better + errors.TOLERANCE)
    for n in range(len(errors.RATIOS)):
        found = expected(
            n_c, n_s, p_c, p_s, lambda x, y, n=n: errors.log_factors(x / phi, y / phi, n_c / phi, n_s / phi)[n]
        )
        assert found <= JUST


def test_more_errors_are_expected_to_win_against_a_bad_canary() -> None:
    best = max(
        expected(20, 20, 0.5, 0.02, lambda x, y, n=n: errors.log_factors(x, y, 20, 20)[n])
        for n in range(len(errors.RATIOS))
    )

    assert best > 100


@pytest.mark.parametrize(("n_c", "n_s"), SIZES)
@pytest.mark.parametrize("p_s", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("ratio", [1.2, 2.0])
@pytest.mark.parametrize("worse", [1.0, 1.5])
def test_a_canary_worse_by_the_ratio_is_never_expected_to_look_safe(
    n_c: int, n_s: int, p_s: float, ratio: float, worse: float
) -> None:
    p_c = min(1.0, p_s * ratio * worse)

    assert expected(n_c, n_s, p_c, p_s, lambda x, y: errors.log_factor_below(x, y, n_c, n_s, ratio)) <= JUST


@pytest.mark.parametrize(("n_c", "n_s"), SIZES)
@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("believed", [0.0, 0.01, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("faster", [1.0, 0.4])
def test_slowness_is_never_expected_of_a_canary_as_fast_as_stable_whatever_its_past_said(
    n_c: int, n_s: int, p: float, believed: float, faster: float
) -> None:
    for n in range(len(latency.ODDS)):
        found = expected(n_c, n_s, p * faster, p, lambda x, y, n=n: latency.log_factors(x, y, n_c, n_s, believed)[n])
        assert found <= JUST


@pytest.mark.parametrize(("n_c", "n_s"), SIZES)
@pytest.mark.parametrize("p", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("bet", [(0.0, 0.05), (0.02, 0.05), (0.05, 0.05), (0.3, 0.05), (0.1, 1.0)])
@pytest.mark.parametrize("slower", [1.0, 1.8])
def test_a_canary_slower_by_the_margin_is_never_expected_to_look_safe(
    n_c: int, n_s: int, p: float, bet: tuple[float, float], slower: float
) -> None:
    found = expected(n_c, n_s, min(1.0, p * slower), p, lambda x, y: latency.safe_log_factor(x, y, n_c, n_s, *bet))

    assert found <= JUST


@pytest.mark.parametrize(("n_c", "n_s"), SIZES)
@pytest.mark.parametrize("p_s", [0.0, 0.005, 0.1])
@pytest.mark.parametrize("margin", [0.005, 0.05])
@pytest.mark.parametrize("believed", [0.0005, 0.02, 0.4])
@pytest.mark.parametrize("worse", [1.0, 2.0])
def test_a_canary_that_fails_more_by_the_margin_is_never_expected_to_look_safe(
    n_c: int, n_s: int, p_s: float, margin: float, believed: float, worse: float
) -> None:
    bet = promotion.best_bet(believed, margin, n_c / n_s)
    p_c = min(1.0, p_s + margin * worse)

    assert expected(n_c, n_s, p_c, p_s, lambda x, y: promotion.log_factor(x, y, n_c, n_s, bet, margin)) <= JUST


def test_the_bet_on_safety_is_the_one_that_grows_fastest() -> None:
    rate, margin, ratio = 0.01, 0.005, 0.1

    def growth(bet: float) -> float:
        return rate * log(bet) + rate / ratio * log(1 + ratio * (1 - bet)) + margin * (1 - bet)

    best = promotion.best_bet(rate, margin, ratio)
    assert growth(best) > growth(best * 0.98)
    assert growth(best) > growth(best * 1.02)
    assert isclose(promotion.growth(rate, margin, ratio), growth(best))


@pytest.mark.parametrize("limit", [0.0, 0.01, 0.05, 0.5])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_limit_that_holds_is_never_expected_to_look_broken(limit: float, share: float) -> None:
    q = max(limit, 1e-6) * share
    mean = 0.0
    for first, second in product(range(4), repeat=2):
        weight = dict(binomial(3, q))[first] * dict(binomial(3, q))[second]
        found = Limit(limit)
        found.add(first, 3, 1.0, reserve(0))
        mean += weight * found.add(second, 3, 1.0, reserve(3))

    assert mean <= JUST


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5])
def test_a_split_as_the_weight_says_is_never_expected_to_look_off(weight: float) -> None:
    mean = 0.0
    for first, second in product(range(6), repeat=2):
        found = Balance()
        found.add(first, 5 - first, round(weight * 1e6), reserve(0))
        found.add(second, 5 - second, round(weight * 1e6), reserve(5))
        chances = dict(binomial(5, weight))
        mean += chances[first] * chances[second] * found.evidence

    assert mean <= JUST


def test_the_mixture_over_onsets_neither_makes_nor_loses_stake() -> None:
    """Fair coins, double or nothing, for five ticks: every path weighed, the mean stays 1."""
    mean = 0.0
    for path in product((0, 1), repeat=5):
        onset = Onset(2)
        for n, won in enumerate(path):
            onset.bet([log(2) if won else -1e3, log(1.5) if won else log(0.5)], reserve(100.0 * n))
        mean += onset.evidence / 2**5

    assert isclose(mean, 1.0, rel_tol=1e-9)


def test_what_is_kept_back_comes_into_play_and_finds_a_late_onset() -> None:
    onset = Onset(1)
    for n in range(200):
        onset.bet([-0.5], reserve(10.0 * n))
    lost = onset.evidence
    for n in range(200, 215):
        onset.bet([1.0], reserve(10.0 * n))

    assert lost < 0.2
    assert onset.evidence > 100


def test_tempering_only_takes_and_only_from_what_was_won() -> None:
    onset = Onset(2)
    onset.bet([3.0, -3.0], reserve(0))
    before = onset.state()
    onset.temper(0.5)
    _, winner, loser = onset.state()

    assert winner < before[1]
    assert loser == before[2]
    assert isclose(onset.evidence, sum(onset.state()))


def test_evidence_is_bounded_so_that_it_wanes_as_fast_as_it_came() -> None:
    onset = Onset(1)
    for _ in range(10):
        onset.bet([1e6], reserve(0))
    assert onset.evidence <= 2e9
    onset.bet([-25.0], reserve(0))
    assert onset.evidence < 1
