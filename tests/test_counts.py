"""Counts of finished requests: exact under threads, bounded in memory, never going back."""

from __future__ import annotations

import _thread
import json
import math
import os
import random
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core import tallies
from canary_middleware._core.exchange import Exchange, Failure
from canary_middleware._core.lifecycle.rollout import Assignment, Variant, Variants
from canary_middleware._core.tallies import BOUNDS_S, OTEL_BOUNDS_S, OVERFLOW, Cell, Series, Snapshot
from canary_middleware._serving.counts import MAX_SETS, Counts
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V1 = Variant("checkout", "v1", "stable", "weight")
V2 = Variant("checkout", "v2", "canary", "weight")


class FakeDoor:
    """What an exchange needs of its door: where it ends, and whom it falls back to."""

    def __init__(self, counts: Counts) -> None:
        self.end = counts.end
        self.fallback = Assignment(V1, 0)


def exchange(
    counts: Counts, variant: Variant = V2, method: str = "GET", route: str | None = "/a", seconds: float = 0.1
) -> Exchange:
    made = Exchange(method)
    made.admit(Assignment(variant, 0), FakeDoor(counts), 0.0)  # type: ignore[arg-type]
    made.status = 200
    made.route = route
    made.duration = seconds
    return made


def count(counts: Counts, times: int = 1, **what: Any) -> None:
    for _ in range(times):
        one = exchange(counts, **what)
        counts.begin(one.variant)
        one.finish()


def total(snapshot: Snapshot) -> int:
    return sum(snapshot.ended.values())


def in_threads(number: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns as often as they can, so that a lost update shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switches")
def test_nothing_is_lost_between_eight_threads_and_a_reader() -> None:
    counts = Counts()
    is_over = threading.Event()
    seen: list[Snapshot] = []

    def read() -> None:
        while not is_over.is_set():
            seen.append(counts.snapshot())

    reader = threading.Thread(target=read)
    reader.start()
    in_threads(8, lambda: count(counts, 20_000))
    is_over.set()
    reader.join()

    found = counts.snapshot()
    assert found.begun == found.ended == {V2: 160_000}
    cell = found.series[Series(V2, "GET", 200, "/a")]
    assert (cell.count, cell.total_s) == (160_000, pytest.approx(16_000))
    totals = [total(snapshot) for snapshot in [*seen, found]]
    assert totals == sorted(totals)


def test_a_server_with_a_thread_per_request_keeps_a_constant_amount_of_memory() -> None:
    counts = Counts()
    tables = []

    for _ in range(200):
        in_threads(1, lambda: count(counts))
        tables.append(len(counts._live))

    # The last thread's table stays until the next thread or reader comes.
    assert max(tables) <= 2
    assert total(counts.snapshot()) == 200
    assert counts._live == []
    assert total(counts.snapshot()) == 200


def test_threads_that_a_server_starts_in_c_leave_nothing_behind_either() -> None:
    counts = Counts()

    for expected in range(1, 51):
        # Such a thread cannot be joined, and threading holds it alive for ever.
        _thread.start_new_thread(count, (counts,))
        eventually(lambda expected=expected: total(counts.snapshot()) == expected and not counts._live)

    assert total(counts.snapshot()) == 50


def test_a_new_thread_does_not_wait_for_a_reader() -> None:
    counts = Counts()

    with counts._lock:
        in_threads(3, lambda: count(counts))

    assert counts.snapshot().ended == {V2: 3}


def test_a_thread_that_only_ends_requests_is_counted_too() -> None:
    counts = Counts()
    one = exchange(counts)
    counts.begin(V2)

    in_threads(1, one.finish)

    assert counts.snapshot().begun == counts.snapshot().ended == {V2: 1}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_starts_from_zero_and_leaves_its_parent_alone() -> None:
    counts = Counts()
    count(counts, 5)
    read, write = os.pipe()

    pid = os.fork()
    if pid == 0:
        counts.forked()
        count(counts, 2)
        os.write(write, str(counts.snapshot().ended[V2]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        in_child = int(pipe.read())

    assert in_child == 2
    assert counts.snapshot().ended == {V2: 5}


def test_what_a_fork_inherits_it_forgets() -> None:
    counts = Counts()
    count(counts, 5)
    counts._lock.acquire()  # as a thread of the parent may have held it

    counts.forked()

    assert counts.snapshot() == Snapshot({}, {}, {}, {}, {}, {})
    assert counts.pid == os.getpid()


def test_beyond_the_last_label_set_totals_stay_exact() -> None:
    counts = Counts()
    excess = 500

    for n in range(MAX_SETS + excess):
        count(counts, route=f"/{n}", variant=V2 if n % 2 else V1)
    failed = exchange(counts, route="/one-more")
    counts.begin(V2)
    failed.raised(ValueError("x"))
    gone = exchange(counts, route="/and-another")
    counts.begin(V2)
    gone.aborted()

    found = counts.snapshot()
    assert found.begun == found.ended
    assert total(found) == MAX_SETS + excess + 2
    beyond = {key: cell.count for key, cell in found.series.items() if key.method == OVERFLOW}
    assert beyond == {
        Series(V1, OVERFLOW, 0, None): excess / 2,
        Series(V2, OVERFLOW, 0, None): excess / 2,
        Series(V2, OVERFLOW, 0, None, OVERFLOW): 1,
        Series(V2, OVERFLOW, 0, None, None, True): 1,
    }
    assert len(found.series) == MAX_SETS + len(beyond)


def test_methods_of_a_clients_own_invention_share_one_series() -> None:
    counts = Counts()

    for n in range(3_000):
        count(counts, method=f"BREW{n}")
    count(counts, method="PATCH")

    assert {key.method: cell.count for key, cell in counts.snapshot().series.items()} == {"_OTHER": 3_000, "PATCH": 1}


def fails(one: Exchange) -> None:
    one.raised(ValueError("x"))


def answers_502(one: Exchange) -> None:
    one.status = 502
    one.finish()


def falls_back(one: Exchange) -> None:
    one.fall_back(Failure(503, "KeyError"))
    one.status = 200
    one.finish()


def misses(one: Exchange) -> None:
    one.missed = "started"
    one.raised(ValueError("x"))


def leaves(one: Exchange) -> None:
    one.error_type = "ValueError"
    one.aborted()


def gets_a_cookie(one: Exchange) -> None:
    one.new_id = "abc"
    one.finish()


@pytest.mark.parametrize(
    ("happens", "series"),
    [
        (fails, Series(V2, "GET", 500, "/a", "ValueError")),
        (answers_502, Series(V2, "GET", 502, "/a", "502")),
        (falls_back, Series(V2, "GET", 503, "/a", "KeyError")),
        (misses, Series(V2, "GET", 500, "/a", "ValueError")),
        (leaves, Series(V2, "GET", 200, "/a", None, True)),
        (gets_a_cookie, Series(V2, "GET", 200, "/a")),
    ],
)
def test_each_outcome_is_counted_under_the_version_that_caused_it(
    happens: Callable[[Exchange], None], series: Series
) -> None:
    counts = Counts()

    happens(exchange(counts))

    assert {key: cell.count for key, cell in counts.snapshot().series.items()} == {series: 1}


def test_fallbacks_and_missed_ones_are_counted_by_cause() -> None:
    counts = Counts()

    for happens in (falls_back, falls_back, misses):
        in_threads(1, lambda happens=happens: happens(exchange(counts)))

    found = counts.snapshot()
    assert found.fallbacks == {("checkout", "v2", "KeyError"): 2}
    assert found.missed == {("checkout", "v2", "started"): 1}


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_quantiles_are_within_two_and_a_half_percent(q: float, seed: int) -> None:
    dice = random.Random(seed)
    counts = Counts()
    times = sorted(min(max(dice.lognormvariate(-2.5, 1.2), 0.0011), 40.0) for _ in range(5_000))

    for seconds in times:
        count(counts, seconds=seconds)

    true = times[math.ceil(q * len(times)) - 1]
    (cell,) = counts.snapshot().series.values()
    assert cell.quantile_s(q) == pytest.approx(true, rel=0.025)


def test_durations_beyond_the_buckets_are_counted_at_their_ends() -> None:
    counts = Counts()
    count(counts, seconds=0.0)
    count(counts, seconds=3600.0)

    (cell,) = counts.snapshot().series.values()

    assert (cell.count, cell.total_s) == (2, 3600.0)
    assert (cell.quantile_s(0.1), cell.quantile_s(0.9)) == (BOUNDS_S[0], BOUNDS_S[-1])
    # A rank beyond the last request, which rounding may ask for, is the longest there is.
    assert cell.quantile_s(1.1) == BOUNDS_S[-1]
    assert Cell().quantile_s(0.5) == 0.0


def test_the_standard_bounds_are_bounds_of_ours() -> None:
    assert set(OTEL_BOUNDS_S) <= set(BOUNDS_S)
    assert list(BOUNDS_S) == sorted(BOUNDS_S)


def test_what_came_since_is_the_difference_of_two_readings() -> None:
    counts = Counts()
    count(counts, 3, seconds=0.1)
    (before,) = counts.snapshot().series.values()
    count(counts, 2, seconds=0.2)
    (after,) = counts.snapshot().series.values()

    fresh = after.minus(before)

    assert (fresh.count, fresh.total_s) == (2, pytest.approx(0.4))
    assert fresh.quantile_s(0.5) == pytest.approx(0.2, rel=0.025)
    assert (after.minus(None).count, after.minus(after).count) == (5, 0)


counted = st.dictionaries(
    st.builds(
        Series,
        st.sampled_from([V1, V2]),
        st.sampled_from(["GET", "_OTHER"]),
        st.integers(0, 599),
        st.none() | st.text(max_size=8),
        st.none() | st.text(max_size=8),
        st.booleans(),
    ),
    st.dictionaries(st.integers(0, len(BOUNDS_S)), st.integers(1, 10**9), max_size=4),
    max_size=5,
)


@given(counted)
def test_counts_survive_being_stored_as_json(found: dict[Series, dict[int, int]]) -> None:
    variants = Variants()
    series: dict[Series, Cell] = {}
    for key, buckets in found.items():
        v = key.variant
        cell = series.setdefault(key._replace(variant=variants.get(v.rollout, v.version, v.role, v.reason)), Cell())
        cell.buckets = buckets
        cell.total_s = 1.5

    plain = json.loads(json.dumps(tallies.to_plain(series)))
    back = tallies.from_plain(plain, variants)

    assert {key: (cell.buckets, cell.total_s) for key, cell in back.items()} == {
        key: (cell.buckets, cell.total_s) for key, cell in series.items()
    }
    assert {key.variant.role for key in tallies.from_plain(plain)} == {key.variant.role for key in series}


def test_cells_are_merged_by_adding() -> None:
    counts = Counts()
    count(counts, 2, seconds=0.1)
    count(counts, 3, route="/b", seconds=1.0)

    together = tallies.merged(counts.snapshot().series.values())

    assert (together.count, together.total_s) == (5, pytest.approx(3.2))
