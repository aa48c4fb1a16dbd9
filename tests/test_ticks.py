"""From requests to what a judge sees: exact, by identity group, and not blind to those that hang."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_header, open_store
from canary_middleware._control.ticks import (
    MOST_ENDPOINTS,
    endpoints_of,
    flight_to_plain,
    groups_to_plain,
    places_of,
    ticks_of,
    users_to_plain,
)
from canary_middleware._core.evidence.tick import Group
from canary_middleware._core.exchange import Failure
from canary_middleware._core.tallies import GRID, from_plain
from canary_middleware._serving.in_flight import LATE_S, TIMEOUT_S, InFlight

from .core.heads import Head
from .support.wait import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from canary_middleware._core.evidence.tick import Tick
    from canary_middleware._core.exchange import Exchange


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def judged(clock: Clock, **fields: Any) -> Canary:
    """A Canary that counts for a judge, without a store."""
    found = Canary("shop", key=[by_header("x-user-id")], weight=50, clock=clock, **fields)
    found.counts.is_judged = True
    return found


@pytest.fixture
def canary(clock: Clock) -> Canary:
    return judged(clock)


def begin(canary: Canary, user: str) -> Exchange:
    exchange = canary.begin(Head(headers={"x-user-id": user}))
    assert exchange is not None
    return exchange


def serve(canary: Canary, user: str, status: int = 200) -> None:
    exchange = begin(canary, user)
    exchange.status = status
    exchange.finish()


def windows(canary: Canary, second: int = 7) -> list[tuple[int, dict[str, Any]]]:
    from canary_middleware._core.tallies import to_plain

    snapshot = canary.counts.snapshot()
    return [(second, {**to_plain(snapshot.series), **groups_to_plain(snapshot.groups)})]


def tick_of(found: Any) -> Any:
    (tick,) = ticks_of(found, "shop", "v1", "v2", lambda at: 500_000)
    return tick


def test_a_tick_holds_every_request_under_its_version_and_identity_group(canary: Canary) -> None:
    for n in range(200):
        serve(canary, f"user-{n}", status=500 if n % 10 == 0 else 200)
    tick = tick_of(windows(canary))

    assert (tick.at_s, tick.weight_ppm) == (7.0, 500_000)
    assert tick.stable.requests + tick.canary.requests == 200
    assert tick.stable.failures + tick.canary.failures == 20
    assert tick.stable.unavailable == tick.canary.unavailable == 0
    for side in (tick.stable, tick.canary):
        assert sum(group.requests for group in side.groups.values()) == side.requests
        assert sum(group.failures for group in side.groups.values()) == side.failures
        assert sum(side.durations.values()) == side.requests


def test_one_user_stays_in_one_group(canary: Canary) -> None:
    for _ in range(5):
        serve(canary, "ada", status=503)
    tick = tick_of(windows(canary))
    (group,) = {**tick.stable.groups, **tick.canary.groups}.values()

    assert group == Group(5, 5, 5 * GRID[0])
    assert tick.stable.unavailable + tick.canary.unavailable == 5


def test_clients_that_left_are_in_no_group(canary: Canary) -> None:
    begin(canary, "ada").aborted()
    tick = tick_of(windows(canary))

    assert tick.stable.requests + tick.canary.requests == 0
    assert not tick.stable.groups
    assert not tick.canary.groups


def test_groups_are_exact_under_threads(canary: Canary) -> None:
    threads = [threading.Thread(target=lambda: [serve(canary, f"u{n}") for n in range(300)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = canary.counts.snapshot().groups.values()

    assert sum(sum(row[:64]) for row in rows) == 2400


def test_only_what_the_hash_assigned_has_groups() -> None:
    canary = judged(Clock(), overrides={"users": {"v2": ["qa"]}})
    serve(canary, "qa")

    assert canary.counts.snapshot().groups == {}


def test_a_request_that_hangs_is_slow_at_two_seconds_failed_at_thirty_and_taken_back_when_it_ends(
    canary: Canary, clock: Clock
) -> None:
    flight = InFlight()
    exchange = begin(canary, "ada")
    version = ("shop", exchange.variant.version)
    clock.now += LATE_S - 0.1
    assert flight.look(canary.counts.live, clock()) == {}

    clock.now += 0.1
    (said,) = flight.look(canary.counts.live, clock()).values()
    assert said.pop("r") == 1
    ((bucket, one),) = said.items()
    assert one == 1
    assert flight.look(canary.counts.live, clock()) == {}
    clock.now += TIMEOUT_S - LATE_S
    assert flight.look(canary.counts.live, clock()) == {version: {"f": 1}}

    exchange.status = 200
    exchange.finish()
    assert canary.counts.live == {}
    assert flight.look(canary.counts.live, clock()) == {version: {"r": -1, bucket: -1, "f": -1}}
    assert flight.look(canary.counts.live, clock()) == {}


def test_streams_websockets_and_forced_requests_do_not_hang(clock: Clock) -> None:
    canary = judged(clock, overrides={"users": {"v2": ["qa"]}})
    stream, socket, forced = begin(canary, "a"), begin(canary, "b"), begin(canary, "qa")
    stream.status = 200
    socket.method = "WEBSOCKET"
    clock.now += 100

    assert InFlight().look(canary.counts.live, clock()) == {}
    assert forced.assignment.reason == "user"


def test_a_canary_that_hangs_is_seen_in_the_tick(canary: Canary, clock: Clock) -> None:
    hanging = [begin(canary, f"user-{n}") for n in range(40)]
    clock.now += TIMEOUT_S
    plain = flight_to_plain(InFlight().look(canary.counts.live, clock()))
    tick = tick_of([(1, plain)])

    assert tick.stable.requests + tick.canary.requests == len(hanging)
    assert tick.canary.failures == tick.canary.unavailable == tick.canary.requests > 0


def test_what_is_taken_back_in_another_window_leaves_nothing_below_zero() -> None:
    plain = flight_to_plain({("shop", "v2"): {"r": -1, "30": -1, "f": -1}})
    tick = tick_of([(1, plain)])

    assert (tick.canary.requests, tick.canary.failures, tick.canary.durations) == (0, 0, {})


@pytest.mark.parametrize("odd", [{"n3": "x"}, {"n3": float("nan")}, {"n3": -5}, {"n99": 1}, [1], None])
def test_odd_numbers_of_a_worker_are_passed_over(odd: Any) -> None:
    tick = tick_of([(1, {json.dumps(["#groups", "shop", "v2"], separators=(",", ":")): odd})])

    assert tick.canary.groups == {}


def test_a_window_that_cannot_be_read_is_told_and_the_next_is_read(canary: Canary) -> None:
    serve(canary, "ada")
    told: list[str] = []
    found = [(5, {"garbage": 1}), *windows(canary)]
    ticks = ticks_of(found, "shop", "v1", "v2", lambda at: 0, complain=told.append)

    assert [tick.at_s for tick in ticks] == [5.0, 7.0]
    assert (ticks[0].stable.requests, ticks[0].canary.requests) == (0, 0)
    assert "second 5 cannot be read" in told[0]


def test_people_see_nothing_of_what_is_for_the_judge(canary: Canary) -> None:
    serve(canary, "ada")
    (_, plain), *_ = windows(canary)
    plain |= flight_to_plain({("shop", "v2"): {"r": 1, "30": 1}})

    assert sum(cell.count for cell in from_plain(plain).values()) == 1


def test_each_identity_is_told_of_once_by_each_version_until_it_is_forgotten(canary: Canary) -> None:
    for _ in range(3):
        for n in range(100):
            serve(canary, f"user-{n}")
    first = users_to_plain(canary.counts.newcomers())
    serve(canary, "user-1")
    again = users_to_plain(canary.counts.newcomers())
    canary.counts.forget_users()
    serve(canary, "user-1")

    places = [places_of(first, "shop", version) for version in ("v1", "v2")]
    assert 97 <= sum(map(len, places)) <= 100
    assert not places[0] & places[1]
    assert again == {}
    assert len(users_to_plain(canary.counts.newcomers())) == 1


def test_places_that_are_none_are_passed_over() -> None:
    name = json.dumps(["#users", "shop", "v2"], separators=(",", ":"))

    assert places_of({name: {"7": 1, "x": 1, "-3": 1, "99999": 1}}, "shop", "v2") == {7}


def test_groups_travel_through_a_store_and_add_up(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/canary.db")
    canary = Canary("shop", key=[by_header("x-user-id")], store=store)
    for n in range(300):
        serve(canary, f"user-{n}")

    def seen() -> list[Tick]:
        return ticks_of(store.counts(), "shop", "v1", "v2", lambda at: 0)

    eventually(lambda: sum(g.requests for tick in seen() for g in tick.stable.groups.values()) == 300)
    canary.close()

    assert sum(tick.stable.requests for tick in seen()) == 300
    store.close()


def _row(version: str, route: str | None, status: int = 200, reason: str = "weight") -> str:
    error = str(status) if status >= 500 else None
    return json.dumps(["shop", version, "canary", reason, "GET", status, route, error, False], separators=(",", ":"))


def test_the_endpoints_at_which_the_canary_fails_most_and_then_is_slowest_come_first() -> None:
    slow, fast = str(GRID.index(400)), str(GRID.index(100))
    first = {
        _row("v2", "/fails", 500): {"s": 1.0, fast: 3},
        _row("v2", "/slow"): {"s": 1.0, slow: 2},
        _row("v1", "/slow"): {"s": 1.0, fast: 4},
        _row("v2", "/forced", 500, "override"): {"s": 1.0, fast: 9},
        _row("v1", "/stable-only", 500): {"s": 1.0, fast: 9},
    }
    second = {_row("v2", "/fails"): {"s": 1.0, fast: 1}, _row("v2", None): {"s": 1.0, fast: 1}}
    found = endpoints_of([(1, first), (2, second)], "shop", "v1", "v2")
    assert [(c.route, c.requests, c.failures) for _, c in found] == [("/fails", 4, 3), ("/slow", 2, 0), ("", 1, 0)]
    stable, canary = found[1]
    assert (stable.route, stable.requests) == ("/slow", 4)
    assert canary.p95_s > stable.p95_s > 0


def test_only_so_many_endpoints_are_named() -> None:
    one = {_row("v2", f"/{n}"): {"s": 1.0, "5": 1} for n in range(3 * MOST_ENDPOINTS)}
    assert len(endpoints_of([(1, one)], "shop", "v1", "v2")) == MOST_ENDPOINTS


def test_a_window_whose_endpoints_cannot_be_read_is_told_and_the_next_is_read() -> None:
    said: list[str] = []
    good = {_row("v2", "/a"): {"s": 1.0, "5": 1}}
    found = endpoints_of([(1, {"rubbish": {}}), (2, good)], "shop", "v1", "v2", complain=said.append)
    assert [c.route for _, c in found] == ["/a"]
    assert len(said) == 1
    assert "second 1" in said[0]


def test_one_series_that_cannot_be_read_hides_nothing_else(canary: Canary) -> None:
    serve(canary, "ada")
    ((_, plain),) = windows(canary)
    told: list[str] = []
    ticks = ticks_of([(7, {"garbage": 1, **plain})], "shop", "v1", "v2", lambda at: 0, complain=told.append)

    assert sum(side.requests for side in (ticks[0].stable, ticks[0].canary)) == 1
    assert "second 7" in told[0]


def test_what_never_ends_is_dropped_after_an_hour(canary: Canary, clock: Clock) -> None:
    begin(canary, "ada")
    clock.now += 3599
    canary.counts.drop_lost(clock())
    assert len(canary.counts.live) == 1

    clock.now += 2
    canary.counts.drop_lost(clock())
    assert canary.counts.live == {}


def test_without_a_store_nothing_is_counted_for_a_judge(clock: Clock) -> None:
    canary = Canary("shop", key=[by_header("x-user-id")], weight=50, clock=clock)
    serve(canary, "ada")
    begin(canary, "ben")

    assert canary.counts.live == {}
    assert canary.counts.newcomers() == []
    assert canary.counts.snapshot().groups == {}


def test_a_request_that_stable_answered_is_the_canary_s_failure_in_its_group(clock: Clock) -> None:
    canary = judged(clock)
    user = next(f"u{n}" for n in range(100) if canary.is_canary(f"u{n}"))
    exchange = begin(canary, user)
    exchange.fall_back(Failure(500, "500"))
    exchange.status = 200
    exchange.finish()
    ((variant, row),) = canary.counts.snapshot().groups.items()

    assert variant.version == "v2"
    assert (sum(row[:64]), sum(row[64:128])) == (1, 1)


def test_a_fork_begins_without_what_its_parent_counted_for_the_judge(canary: Canary) -> None:
    serve(canary, "ada")
    begin(canary, "ben")
    canary.counts.forked()

    assert (canary.counts.live, canary.counts.newcomers(), canary.counts.snapshot().groups) == ({}, [], {})
    assert canary.counts.is_judged
