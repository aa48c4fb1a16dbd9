"""What the judge is made of: ticks, the past, the spread between users, the balance of the split."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest

from canary_middleware._core.evidence import Group, Side, Tick
from canary_middleware._core.evidence.balance import Balance
from canary_middleware._core.evidence.dispersion import Dispersion, of_share
from canary_middleware._core.evidence.interference import Interference
from canary_middleware._core.evidence.latency import GRACED
from canary_middleware._core.evidence.limit import bad_of, share_of
from canary_middleware._core.evidence.onset import reserve
from canary_middleware._core.evidence.past import MEMORY, Past
from canary_middleware._core.evidence.tick import from_plain, to_plain
from canary_middleware._core.evidence.totals import Totals
from canary_middleware._core.plan import durations
from canary_middleware._core.plan.schema import Criterion
from canary_middleware.errors import ConfigError

SIDE = Side(10, 2, 1, {30: 4, 80: 6}, {3: Group(10, 2, 600)}, 5)


@pytest.mark.parametrize(("seconds", "index"), [(0.0, 0), (0.001, 0), (-1.0, 0), (nan, 0), (1e9, 450), (inf, 450)])
def test_every_duration_has_a_bucket(seconds: float, index: int) -> None:
    assert durations.bucket(seconds) == index


def test_a_bucket_s_bound_is_its_last_duration() -> None:
    assert durations.bucket(durations.upper_s(100)) == 100
    assert durations.bucket(durations.upper_s(100) * 1.001) == 101
    assert durations.upper_s(450) == inf


def test_the_grace_is_a_bucket_and_at_least_a_millisecond() -> None:
    assert GRACED[200] == 201
    assert durations.upper_s(GRACED[10]) >= durations.upper_s(10) + 0.001


# -- ticks -----------------------------------------------------------------------------------------------------------


def test_a_tick_survives_json() -> None:
    tick = Tick(12.5, 123_400, SIDE, Side(), 2.0)

    assert from_plain(json.loads(json.dumps(to_plain(tick)))) == tick


def test_sides_add_up() -> None:
    assert SIDE.plus(SIDE) == Side(20, 4, 2, {30: 8, 80: 12}, {3: Group(20, 4, 1200)}, 10)


PLAIN: dict[str, Any] = {"at": 1, "weight": 10, "stable": {"requests": 1}, "canary": {"requests": 1}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wait": 1}, "wait is not known: a tick has at, canary, seconds, stable, weight"),
        ({"at": None}, "at is None: must be a number"),
        ({"at": True}, "at is True: must be a number"),
        ({"at": nan}, "at is nan: must be a number"),
        ({"weight": 101}, "weight is 101: must be 0 or more, at most 100"),
        ({"seconds": -1}, "seconds is -1: must be 0 or more"),
        ({"stable": 3}, "stable is 3: must be a table with requests and failures"),
        ({"stable": {"hits": 3}}, "stable.hits is not known: a version has requests, failures"),
        ({"canary": {"requests": -1}}, "canary.requests is -1: must be a whole number, 0 or more"),
        ({"canary": {"requests": 1.5}}, "canary.requests is 1.5: must be a whole number, 0 or more"),
        ({"canary": {"requests": 1, "failures": 2}}, "canary.failures is 2: must not be more than its requests (1)"),
        ({"canary": {"requests": 1, "durations": {"3": 2}}}, "canary.durations add up to 2: must add up to its"),
        ({"canary": {"requests": 1, "durations": [1]}}, "canary.durations is [1]: must be a table"),
        ({"canary": {"requests": 1, "durations": {"451": 1}}}, "canary.durations has '451': must be 0 … 450"),
        ({"canary": {"requests": 1, "groups": {"x": [1, 0, 1]}}}, "canary.groups has 'x': must be 0 … 63"),
        (
            {"canary": {"requests": 1, "groups": {"1": [1, 0]}}},
            "canary.groups.1 is [1, 0]: must be [requests, failures",
        ),
    ],
)
def test_what_is_wrong_with_a_tick_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="^" + message.translate({ord(c): "\\" + c for c in "[]()."})):
        from_plain({**PLAIN, **change})


# -- the past --------------------------------------------------------------------------------------------------------


def test_the_past_knows_quantiles_shares_and_the_error_rate() -> None:
    past = Past()
    past.add(Side(100, 10, 0, {10: 50, 20: 45, 30: 5}))

    assert [past.quantile(q) for q in (0.4, 0.6, 0.97)] == [10, 20, 30]
    assert past.share_above(10) == pytest.approx(0.5)
    assert past.rate == pytest.approx(10.5 / 101)


def test_the_past_forgets_and_stays_finite() -> None:
    past = Past()
    past.add(Side(1000, 1000, 0, {10: 1000}))
    for _ in range(400):
        past.add(Side(int(MEMORY), 0, 0, {200: int(MEMORY)}))

    assert past.quantile(0.01) == 200
    assert past.rate < 1e-4
    assert 0.5 * MEMORY < past.requests < 2 * MEMORY
    again = Past(json.loads(json.dumps(past.state())))
    assert again.quantile(0.5) == 200
    assert again.rate == pytest.approx(past.rate)


def test_a_past_without_anything_answers() -> None:
    past = Past()

    assert (past.quantile(0.5), past.share_above(3), past.rate) == (0, 0.0, 0.5)


def test_totals_tell_rates_and_quantiles() -> None:
    totals = Totals()
    assert (totals.error_rate, totals.availability, totals.quantile_s(0.5)) == (0.0, 1.0, None)
    totals.add(SIDE)

    assert (totals.error_rate, totals.availability) == (0.2, 0.9)
    assert totals.quantile_s(0.5) == durations.upper_s(80)
    assert Totals(json.loads(json.dumps(totals.state()))).state() == totals.state()


# -- the spread between users ----------------------------------------------------------------------------------------


def spread(ticks: int, alike: bool, seed: int = 5) -> Dispersion:
    """A hundred users with ten requests in each tick; where they are *alike*, five of them always fail and are slow."""
    chance = random.Random(seed)
    found = Dispersion()
    for _ in range(ticks):
        groups: dict[int, list[int]] = {}
        durations_: dict[int, int] = {}
        for user in range(100):
            for _ in range(10):
                is_bad = user < 5 if alike else chance.random() < 0.05
                bucket = 300 if user < 5 and alike else chance.choice((100, 120, 140))
                group = groups.setdefault(user * 7 % 64, [0, 0, 0])
                for n, value in enumerate((1, int(is_bad), bucket)):
                    group[n] += value
                durations_[bucket] = durations_.get(bucket, 0) + 1
        found.add(Side(1000, 50, 0, durations_, {g: Group(*numbers) for g, numbers in groups.items()}))
    return found


def test_independent_requests_count_in_full_and_alike_ones_for_less() -> None:
    independent, alike = spread(20, alike=False), spread(20, alike=True)

    assert 1.0 <= independent.errors() < 1.6
    assert 1.0 <= independent.durations() < 1.6
    assert alike.errors() > 20
    assert alike.durations() > 20


def test_the_sums_are_those_of_the_groups() -> None:
    found = spread(3, alike=True)
    again = Dispersion(json.loads(json.dumps(found.state())))
    n, x = found.state()["n"], found.state()["x"]

    assert found.state()["sums"][:2] == [sum(n), sum(x)]
    assert found.state()["sums"][3:5] == [sum(v * v for v in n), sum(v * v for v in x)]
    assert (again.errors(), again.durations()) == (found.errors(), found.durations())


def test_too_little_says_nothing_of_the_spread() -> None:
    few, constant, one = Dispersion(), Dispersion(), Dispersion()
    few.add(Side(5, 1, 0, {10: 5}, {1: Group(5, 1, 50)}))
    constant.add(Side(100, 0, 0, {10: 100}, {1: Group(50, 0, 500), 2: Group(50, 0, 500)}))
    one.add(Side(100, 0, 0, {10: 50, 20: 50}, {1: Group(100, 0, 1500)}))

    assert [found.durations() for found in (few, constant, one)] == [1.0, 1.0, 1.0]
    assert few.errors() == 1.0


def test_less_of_the_spread_is_left_in_the_tail() -> None:
    assert of_share(1.0, 0.95) == 1.0
    assert of_share(11.0, 0.5) > of_share(11.0, 0.95) > of_share(11.0, 0.99) > 1.0


# -- limits, balance, interference -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "limits", "share", "bad"),
    [
        ("error_rate", {"max": 0.05}, 0.05, 2),
        ("error_rate", {"max_increase": 0.05}, None, 2),
        ("availability", {"min": 0.99}, pytest.approx(0.01), 1),
        ("p95", {"max": 0.0015}, pytest.approx(0.05), 10),
        ("p50", {"max": 0.005}, 0.5, 6),
        ("p95", {"max_ratio": 1.1}, None, 10),
        ("custom.cart", {"min": 3.0}, None, 10),
    ],
)
def test_what_a_limit_lets_pass_and_what_counts_against_it(
    metric: str, limits: dict[str, float], share: float | None, bad: int
) -> None:
    criterion = Criterion(metric, tuple(limits.items()))

    assert share_of(criterion) == share
    if share is not None:
        assert bad_of(criterion, SIDE) == bad


def test_a_split_that_is_not_the_weight_s_is_found_and_a_right_one_is_not() -> None:
    right, wrong = Balance(), Balance()
    for n in range(300):
        right.add(1, 9, 100_000, reserve(n))
        wrong.add(2, 8, 100_000, reserve(n))

    assert not right.is_off
    assert wrong.is_off
    assert (wrong.canary, wrong.expected, wrong.seen) == (600, pytest.approx(300), 3000)
    assert Balance(json.loads(json.dumps(wrong.state()))).is_off


def test_a_split_that_is_mended_is_forgiven_once_hardly_anything_speaks_against_it() -> None:
    balance = Balance()
    said = []
    for n in range(3000):
        balance.add(*((3, 7) if n < 60 else (1, 9)), 100_000, reserve(n))
        said.append(balance.is_off)

    assert said[59]
    assert not said[-1]
    # On once, off once: nothing flaps.
    assert sum(before != after for before, after in pairwise(said)) == 2


@pytest.mark.parametrize(("weight", "canary"), [(0, 5), (1_000_000, 5), (500_000, 0)])
def test_where_there_is_nothing_to_split_nothing_is_counted(weight: int, canary: int) -> None:
    balance = Balance()
    balance.add(canary, 0, weight, reserve(0))

    assert balance.evidence == 1.0


def test_a_stable_half_as_slow_again_is_felt_and_the_same_stable_is_not() -> None:
    same, slower = Interference(), Interference()
    for found in (same, slower):
        found.before(Side(1000, 0, 0, {100: 1000}))
    for _ in range(60):
        same.add(Side(50, 0, 0, {101: 50}))
        slower.add(Side(50, 0, 0, {118: 50}))

    assert not same.is_felt
    assert slower.is_felt
    assert slower.median_before_s == durations.upper_s(100)
    assert Interference(json.loads(json.dumps(slower.state()))).is_felt


def test_without_enough_to_compare_with_no_interference_is_claimed() -> None:
    unknown, sparse = Interference(), Interference()
    sparse.before(Side(1000, 0, 0, {100: 1000}))
    for _ in range(60):
        unknown.add(Side(50, 0, 0, {300: 50}))
        sparse.add(Side(3, 0, 0, {300: 3}))

    assert (unknown.evidence, sparse.evidence) == (1.0, 1.0)
