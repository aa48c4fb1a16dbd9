"""The simulation of rollouts runs, and does what its page says. What the judge is worth is not decided here."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np
import pytest

from canary_middleware._core.evidence.tick import from_plain, to_plain
from canary_middleware._core.lifecycle.progress import Finding
from canary_middleware._core.plan.durations import bucket

from .judge import rules
from .judge.__main__ import main
from .judge.cases import CASES, LINES, Line
from .judge.ours import MOST, WEIGHTS, promoted, rolled_back
from .judge.page import page
from .judge.play import OURS, Alarm, Outcome, play, play_all
from .judge.seen import CANARY, STABLE, Seen, seen_of, ticks_of
from .judge.table import NAMES, cell, figure, is_met, ours, row
from .judge.traffic import Stream, Traffic, Users, buckets

if TYPE_CHECKING:
    from pathlib import Path

    from canary_middleware._core.evidence.tick import Tick

LATE = Line(title="late", case="errors late", measure="caught", target=450, share=0.97)


class Stub:
    """Passes after *passing* canary requests of a stage, condemns at *failing* failures; remembers what it was told."""

    def __init__(self, passing: float = inf, failing: float = inf) -> None:
        self.passing, self.failing = passing, failing
        self.stages: list[tuple[int, int]] = []
        self.weights: list[int] = []
        self.requests = 0
        self.failures = 0

    @property
    def is_condemned(self) -> bool:
        return self.failures >= self.failing

    def enter(self, stage: int, stages: int) -> None:
        self.stages.append((stage, stages))
        self.requests = 0

    def observe(self, tick: Tick) -> None:
        self.weights.append(tick.weight_ppm)
        self.requests += tick.canary.requests
        self.failures += tick.canary.failures

    def finding(self) -> Finding:
        return Finding("pass" if self.requests >= self.passing else "inconclusive")


def seen(requests: tuple[int, int], failures: tuple[int, int], ms: tuple[float, float], seconds: int = 1800) -> Seen:
    """The same in every second, for stable and canary; each duration is that of all requests but the failed."""
    durations = np.zeros((seconds, 2, 451), dtype=np.int32)
    for side in (STABLE, CANARY):
        durations[:, side, bucket(ms[side] / 1000)] = requests[side]
    return Seen(
        weights=np.full(seconds, 0.5),
        requests=np.tile(requests, (seconds, 1)),
        failures=np.tile(failures, (seconds, 1)),
        durations=durations,
    )


def test_buckets_are_those_of_the_product() -> None:
    seconds = np.concatenate([np.random.default_rng(1).lognormal(-2.5, 2.0, 2_000), [1e-9, 1e9]])

    assert buckets(np.log(seconds)).tolist() == [bucket(duration) for duration in seconds.tolist()]


@pytest.mark.parametrize("users", [None, Users(count=50)])
def test_ticks_and_arrays_count_the_same_requests(users: Users | None) -> None:
    piece = Stream(Traffic(base=0.1, users=users), [1]).draw(np.full(20, 0.25))

    ticks = list(ticks_of(piece))

    counted = seen_of([piece])
    for second, tick in enumerate(ticks):
        for side, found in ((STABLE, tick.stable), (CANARY, tick.canary)):
            assert found.requests == counted.requests[second, side] == sum(found.durations.values())
            assert found.failures == counted.failures[second, side]
            assert found.durations == {n: k for n, k in enumerate(counted.durations[second, side].tolist()) if k}
            assert sum(group.requests for group in found.groups.values()) == found.requests
            assert sum(group.failures for group in found.groups.values()) == found.failures
            in_buckets = sum(index * n for index, n in found.durations.items())
            assert sum(group.durations for group in found.groups.values()) == in_buckets
        assert from_plain(to_plain(tick)) == tick
    assert [tick.at_s for tick in ticks] == list(range(20))


def test_each_user_is_new_once_and_has_one_version() -> None:
    stream = Stream(Traffic(users=Users(count=30)), [3])
    ticks = [tick for _ in range(2) for tick in ticks_of(stream.draw(np.full(30, 0.5)))]

    first, later = ([tick.stable.identities + tick.canary.identities for tick in part] for part in (ticks[:30], ticks))

    assert sum(first) == sum(later) == 30


def test_the_canary_is_as_good_as_stable_until_the_onset_and_as_bad_as_is_said_after_it() -> None:
    traffic = Traffic(base=0.02, error=0.2, slower=2.0, hanging=0.1, onset_s=200.0)
    stream = Stream(traffic, [5])

    before, after = (seen_of([stream.draw(np.full(200, 0.5))]) for _ in range(2))

    rates = [counts.failures.sum(axis=0) / counts.requests.sum(axis=0) for counts in (before, after)]
    slow = [counts.durations[:, :, bucket(1.5) :].sum(axis=(0, 1)).sum() for counts in (before, after)]
    assert rates[0] == pytest.approx([0.02, 0.02], abs=0.005)
    assert rates[1] == pytest.approx([0.02, 0.2], abs=0.015)
    assert slow[0] < 10
    assert slow[1] == pytest.approx(1_000, rel=0.15)


def test_what_befalls_both_versions_befalls_them_alike() -> None:
    counts = seen_of([Stream(Traffic(drifts=True, bursts=True), [5]).draw(np.full(1800, 0.5))])
    failures = counts.failures.reshape(180, 10, 2).sum(axis=1)

    assert failures.max(axis=0).min() > 40  # of about 500 in ten seconds: a burst
    assert np.corrcoef(failures.T)[0, 1] > 0.9


def test_the_same_seed_gives_the_same_rollout_and_another_another() -> None:
    one, same, other = (Stream(Traffic(users=Users()), [seed]).draw(np.full(5, 0.1)) for seed in (1, 1, 2))

    assert np.array_equal(one.bucket, same.bucket)
    assert np.array_equal(one.failed, same.failed)
    assert not np.array_equal(one.bucket[:100], other.bucket[:100])


def test_each_rule_leaves_alone_what_is_equal() -> None:
    equal = seen((50, 50), (0, 0), (100, 100))

    assert {name: rule(equal).size for name, rule in rules.RULES.items()} == dict.fromkeys(rules.RULES, 0)


@pytest.mark.parametrize(
    ("name", "failing_s", "slow_s"),
    [
        ("naive", 1, 1),
        ("naive with availability", 1, 1),
        ("Flagger-like", 59, 59),
        ("z-test", 9, 9),
        # It looks for small differences in failures; large ones are no more to it.
        ("mSPRT-like", 29, 3),
        ("Mann-Whitney", 299, 299),
    ],
)
def test_each_rule_rolls_back_what_is_plainly_worse_as_soon_as_it_can(name: str, failing_s: int, slow_s: int) -> None:
    rule = rules.RULES[name]

    assert rule(seen((50, 50), (0, 10), (100, 100)))[0] == failing_s
    assert rule(seen((50, 50), (0, 0), (100, 2_500)))[0] == slow_s


@pytest.mark.parametrize("name", ["z-test", "mSPRT-like", "Mann-Whitney"])
def test_a_comparing_rule_does_not_mind_a_better_canary(name: str) -> None:
    assert not rules.RULES[name](seen((50, 50), (10, 0), (2_500, 100))).size


def test_naive_promotion_asks_for_both_differences_and_flagger_for_no_failed_check() -> None:
    assert rules.naive_promotes(seen((50, 50), (1, 1), (100, 109)))
    assert not rules.naive_promotes(seen((50, 50), (1, 2), (100, 100)))
    assert not rules.naive_promotes(seen((50, 50), (1, 1), (100, 112)))
    assert rules.flagger_promotes(seen((50, 50), (0, 0), (100, 400)))
    assert not rules.flagger_promotes(seen((50, 50), (1, 1), (100, 100)))


def test_the_schedule_is_played_to_our_judge_stage_by_stage_until_it_condemns() -> None:
    stream = Stream(Traffic(base=0.5), [1])
    pieces = [stream.draw(np.repeat(WEIGHTS, 5)), stream.draw(np.full(5, WEIGHTS[-1]))]
    patient, strict = Stub(), Stub(failing=1)

    assert rolled_back(patient, pieces) is None
    second = rolled_back(strict, pieces)
    assert patient.stages == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert patient.weights == [round(weight * 1e6) for weight in np.repeat(WEIGHTS, 5)] + 5 * [500_000]
    assert second == len(strict.weights) - 1


def test_promotion_follows_the_judge_from_stage_to_stage() -> None:
    judge = Stub(passing=0)

    requests = promoted(judge, Stream(Traffic(), [1]))

    assert requests is not None
    assert 4_000 <= requests < 6_000
    assert judge.stages == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert sorted(set(judge.weights)) == [round(weight * 1e6) for weight in WEIGHTS]


def test_what_is_not_convincing_is_not_promoted_nor_is_what_is_condemned() -> None:
    assert promoted(Stub(passing=MOST), Stream(Traffic(), [1])) is None
    assert promoted(Stub(passing=0, failing=3), Stream(Traffic(), [1])) is None


def test_every_line_stands_on_a_case_that_can_answer_it() -> None:
    promotable = {name for name, case in CASES.items() if case.promotes}

    assert {line.case for line in LINES} == set(CASES)
    assert {line.case for line in LINES if line.measure == "promoted"} == promotable
    assert len({line.title for line in LINES}) == len(LINES)


def test_requests_are_counted_from_the_onset_and_alarms_before_it_are_told_apart() -> None:
    outcome = play(CASES["errors late"], [1], lambda: Stub(failing=1))
    blind = play(CASES["errors 20 %"], [1], Stub)

    assert outcome.alarms[OURS] == Alarm(requests=inf, is_early=True)
    assert 0 < outcome.alarms["z-test"].requests < 3_000
    assert blind.alarms[OURS] == Alarm(requests=inf)
    assert blind.alarms["naive"].requests == pytest.approx(104, abs=5)


def test_rollouts_are_the_same_however_they_are_spread() -> None:
    first, second = play_all(CASES["errors 20 %"], 2, 1)

    assert [first, second] == list(play_all(CASES["errors 20 %"], 2, 1))
    assert first != second


def test_a_figure_is_the_median_over_all_rollouts_and_says_what_was_missed() -> None:
    found = [Outcome(alarms={OURS: Alarm(requests=n, is_early=n == 30.0)}, promoted={}) for n in (10.0, 30.0, inf)]
    own = figure(LATE, OURS, found)
    rare = figure(LATE, OURS, found[1:] + found[2:])

    assert own is not None
    assert cell(LATE, own) == "30 (67 % found, 33 % before)"
    assert is_met(LATE, own) is False
    assert ours(LATE, own) == "30 (67 % found, 33 % before) (≤ 450, 97 % found) ✗"
    assert cell(LATE, rare) == "never (33 % found, 33 % before)"


def test_shares_are_held_against_their_targets_from_the_right_side() -> None:
    false = Line(title="", case="", measure="false", target=0.005)
    least = Line(title="", case="", measure="promoted", target=0.99, is_least=True)
    free = Line(title="", case="", measure="promoted")
    found = [
        Outcome(alarms=dict.fromkeys(NAMES, Alarm(requests=inf if n else 7.0)), promoted={OURS: n > 0, "naive": True})
        for n in range(100)
    ]

    rows = [row(line, found) for line in (false, least, free)]
    assert [cells[1] for cells in rows] == ["1 % (≤ 0.5 %) ✗", "99 % (≥ 99 %) ✓", "99 %"]
    assert [cells[2:4] for cells in rows] == [("1 %", "1 %"), ("100 %", "–"), ("100 %", "–")]


def test_the_page_says_plainly_what_is_not_met() -> None:
    bad = page([("a",) * 8], [LATE], rollouts=1000, seed=7)
    good = page([("a",) * 8], [], rollouts=1000, seed=7)

    assert "**Not met:** late." in bad
    assert "Every target is met.\n" in good
    assert "With so few rollouts" in page([("a",) * 8], [], rollouts=999, seed=7)
    assert '--rollouts 1000 --seed 7 --write"' in good


def test_the_benchmark_prints_its_table_and_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.md"

    main(["--rollouts", "2", "--jobs", "1", "--rows", "20 %", "hanging", "--write", str(file)])

    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in err.splitlines()] == ["errors 0.5 → 20 %", "8 % of requests + 1.5 s"]
    table = [line for line in out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in table[2:]] == ["errors 0.5 → 20 %", "8 % of requests + 1.5 s"]
    assert "of 2 figures met; 2 rollouts each" in out
    assert all(line in file.read_text(encoding="utf-8") for line in table)


@pytest.mark.parametrize("arguments", [["--rollouts", "0"], ["--rows", "x" * 9], ["--rows", "late", "--write"]])
def test_what_cannot_be_meant_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
