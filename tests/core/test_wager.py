"""Evidence against a limit: never more than was staked can be expected, and a real breach is found soon."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.evidence.e_process import Wager

LIMITS = [0.0, 0.01, 0.05, 0.2, 0.5, 0.95]
THRESHOLD = 1000.0


def wager(limit: float) -> Wager:
    return Wager(limit, most=THRESHOLD)


def played(limit: float, outcomes: tuple[bool, ...]) -> Wager:
    """A wager that was told of *outcomes* (True is bad) up to the last of them."""
    made = wager(limit)
    for number, is_bad in enumerate(outcomes, 1):
        if is_bad:
            made.bad(number)
    made.quiet(len(outcomes) + 1)
    return made


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_while_the_limit_holds_no_more_than_the_stake_can_be_expected(limit: float, share: float) -> None:
    """By enumeration of all sequences, at the limit itself and at shares below it, after every length."""
    p = limit * share
    for length in (1, 2, 5, 10):
        expected = math.fsum(
            p ** sum(outcomes) * (1 - p) ** (length - sum(outcomes)) * played(limit, outcomes).evidence
            for outcomes in product((False, True), repeat=length)
        )
        assert expected <= 1 + 1e-12


@pytest.mark.parametrize("limit", LIMITS)
@given(outcomes=st.lists(st.booleans(), max_size=40))
def test_no_single_outcome_is_expected_to_add_to_the_evidence(limit: float, outcomes: list[bool]) -> None:
    """Whatever came before: the mean of both continuations, at the limit, is at most what there is."""
    past = tuple(outcomes)
    now = played(limit, past).evidence

    bad, good = played(limit, (*past, True)).evidence, played(limit, (*past, False)).evidence
    assert limit * bad + (1 - limit) * good <= now * (1 + 1e-12)
    assert good <= now * (1 + 1e-12)


def test_at_most_one_in_a_thousand_canaries_at_the_limit_is_ever_condemned() -> None:
    draw = random.Random(20260601)
    limit, runs, condemned = 0.05, 4_000, 0
    for _ in range(runs):
        made, number = wager(limit), 0
        while number < 5_000:
            # The number of good outcomes before the next bad one, in one draw.
            number += 1 + int(math.log(1 - draw.random()) / math.log(1 - limit))
            if made.bad(number) >= THRESHOLD:
                condemned += 1
                break

    assert condemned <= 10  # 4 expected at most; more than 10 has a chance of 0.3 %


@given(
    st.sampled_from(LIMITS),
    st.lists(st.integers(0, 30), min_size=1, max_size=20),
)
def test_good_outcomes_told_in_one_go_weigh_never_more_than_one_by_one(limit: float, gaps: list[int]) -> None:
    together, one_by_one, number = wager(limit), wager(limit), 0
    for gap in gaps:
        for _ in range(gap):
            number += 1
            one_by_one.quiet(number + 1)
        number += 1
        a, b = together.bad(number), one_by_one.bad(number)
        assert a <= b * (1 + 1e-9)
        assert a >= b * 0.9


@pytest.mark.parametrize("limit", [0.01, 0.05])
def test_three_of_three_are_enough_and_two_of_three_are_not_at_five_percent(limit: float) -> None:
    assert played(limit, (True, True, True)).evidence >= THRESHOLD
    for two in ((True, True, False), (True, False, True), (False, True, True)):
        assert played(0.05, two).evidence < THRESHOLD


@pytest.mark.parametrize(("good", "most"), [(0, 3), (100, 6), (10_000, 8), (1_000_000, 10)])
def test_a_breach_after_any_number_of_good_outcomes_is_found_within_a_few(good: int, most: int) -> None:
    made, bad = wager(0.05), 0
    while made.evidence < THRESHOLD:
        bad += 1
        made.bad(good + bad)

    assert bad <= most


@pytest.mark.parametrize(("share", "most"), [(0.07, 4_000), (0.1, 800), (0.2, 130), (0.5, 25)])
def test_a_partial_breach_after_a_good_start_is_found(share: float, most: int) -> None:
    needed = []
    for seed in range(51):
        draw = random.Random(seed)
        made, number = wager(0.05), 500
        while made.evidence < THRESHOLD:
            number += 1
            if draw.random() < share:
                made.bad(number)
        needed.append(number - 500)

    assert sorted(needed)[25] <= most


def test_evidence_wanes_as_soon_as_good_outcomes_come_however_long_the_breach_was() -> None:
    made = wager(0.05)
    for number in range(1, 10_001):
        made.bad(number)
    evidence = made.evidence

    assert THRESHOLD < evidence <= 5 * THRESHOLD + 1
    assert made.quiet(10_031) < THRESHOLD
    assert made.quiet(10_251) < 20


def test_what_is_forgotten_speaks_no_more_and_new_evidence_still_counts() -> None:
    made = wager(0.05)
    for number in (1, 2, 3):
        made.bad(number)
    made.forget()

    assert made.evidence < 1
    for number in range(4, 14):
        made.bad(number)
    assert made.evidence >= THRESHOLD


def test_the_same_outcome_told_twice_or_late_changes_nothing_about_those_in_between() -> None:
    made = wager(0.05)
    made.bad(5)
    evidence = made.evidence

    assert made.quiet(3) == made.quiet(5) == made.quiet(6) == evidence
