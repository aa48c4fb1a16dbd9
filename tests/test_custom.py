"""What the app records itself: exact, for the right version, bounded, and never at a request's cost."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from decimal import Decimal
from fractions import Fraction
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_header, open_store
from canary_middleware._control.recording_limits import LEAST, Recorded, custom_findings, radius
from canary_middleware._core.exchange import active
from canary_middleware._core.plan.schema import Criteria, parse
from canary_middleware._core.tallies import Moments, custom_of, custom_to_plain, from_plain, merge_plain
from canary_middleware._serving.recordings import MOST_NAMES, Recordings, difference
from canary_middleware.testing import force
from tests.contract.behaviour import Call, Reply, raises
from tests.contract.drivers import DRIVERS, Driver
from tests.core.heads import Head
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from canary_middleware._control.findings import Test
    from canary_middleware._core.exchange import Exchange


def made(weight: float = 50, **fields: Any) -> Canary:
    return Canary("shop", key=[by_header("x-user-id")], environ={}, weight=weight, **fields)


def user_of(canary: Canary, version: str) -> str:
    return next(user for user in map(str, range(1000)) if canary.version_for(user) == version)


def begin(canary: Canary, user: str | None, **head: Any) -> Exchange:
    exchange = canary.begin(Head(headers={} if user is None else {"x-user-id": user}, **head))
    assert exchange is not None
    return exchange


def inside(exchange: Exchange, work: Callable[[], None]) -> None:
    """Do *work* as the request's handler would."""
    token = active.set(exchange)
    try:
        work()
    finally:
        active.reset(token)
        exchange.status = 200
        exchange.finish()


def recorded(canary: Canary) -> dict[tuple[str, str], Moments]:
    found = {} if canary.recordings is None else canary.recordings.snapshot()
    return {(variant.version, name): moments for (variant, name), moments in found.items()}


# -- for whom it counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_what_a_handler_records_counts_for_the_version_that_serves_it(driver: Driver) -> None:
    canary = made()

    def records(value: float) -> Callable[[Call], Reply]:
        def behave(call: Call) -> Reply:
            canary.record("cart_value", value)
            canary.record("views")
            return Reply()

        return behave

    with driver.serve(canary, {"v1": records(2.0), "v2": records(3.0)}) as client:
        for _ in range(2):
            for version in ("v1", "v2"):
                assert client(headers=[("x-user-id", user_of(canary, version))]).status == 200
        client(headers=[("x-user-id", user_of(canary, "v2"))])

    assert recorded(canary) == {
        ("v1", "cart_value"): Moments(2, 4.0, 8.0),
        ("v1", "views"): Moments(times=2),
        ("v2", "cart_value"): Moments(3, 9.0, 27.0),
        ("v2", "views"): Moments(times=3),
    }
    assert canary.internal_errors() == {}


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
def test_what_stable_records_for_a_canary_that_failed_says_nothing_of_it(driver: Driver) -> None:
    canary = made()

    def stable(call: Call) -> Reply:
        canary.record("cart_value", 2.0)
        return Reply()

    def broken(call: Call) -> Reply:
        canary.record("cart_value", 3.0)
        return raises(call)

    with driver.serve(canary, {"v1": stable, "v2": broken}) as client:
        assert client(headers=[("x-user-id", user_of(canary, "v2"))]).status == 200

    assert recorded(canary) == {("v2", "cart_value"): Moments(1, 3.0, 9.0)}


def test_outside_a_request_it_counts_for_the_version_that_the_identity_has() -> None:
    canary = made()
    for version, value in (("v1", 1.0), ("v2", 5.0)):
        canary.record("cart_value", value, identity=user_of(canary, version))

    assert recorded(canary) == {("v1", "cart_value"): Moments(1, 1.0, 1.0), ("v2", "cart_value"): Moments(1, 5.0, 25.0)}


def test_an_identity_goes_before_the_request_in_hand() -> None:
    canary = made()

    inside(begin(canary, user_of(canary, "v1")), lambda: canary.record("cart_value", 1, identity=user_of(canary, "v2")))

    assert set(recorded(canary)) == {("v2", "cart_value")}


def test_only_users_whom_the_hash_has_assigned_count() -> None:
    canary = made(overrides={"users": {"v2": ["qa"]}})
    with force(canary, "v2"):
        inside(begin(canary, "1"), lambda: canary.record("cart_value", 1))
    inside(begin(canary, None), lambda: canary.record("cart_value", 1))
    inside(begin(canary, "qa"), lambda: canary.record("cart_value", 1))
    canary.record("cart_value", 1, identity="qa")
    canary.record("cart_value", 1, identity="")
    token = active.set(canary.uncovered)
    canary.record("cart_value", 1)
    active.reset(token)

    assert (recorded(canary), canary.internal_errors()) == ({}, {})


def test_without_a_request_and_an_identity_it_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    canary, other = made(), made()
    with caplog.at_level(logging.ERROR, "canary_middleware"):
        canary.record("cart_value", 1)
        inside(begin(other, user_of(other, "v2")), lambda: canary.record("cart_value", 1))

    assert recorded(canary) == {}
    assert canary.internal_errors() == {("record", "Unattributed"): 2}
    assert len(caplog.records) == 1
    assert "identity=" in caplog.text


def test_which_rollout_must_be_said_where_there_are_several() -> None:
    rollouts = {name: {"key": ["header:x-user-id"], "weight": 100} for name in ("cart", "search")}
    canary = Canary.load({"rollout": rollouts}, environ={})
    canary.record("value", 1, identity="u1")
    canary.record("value", 2, identity="u1", rollout="search")
    canary.record("value", 3, identity="u1", rollout="serch")

    assert canary.recordings is not None
    ((variant, _), moments) = next(iter(canary.recordings.snapshot().items()))
    assert (variant.rollout, moments.total) == ("search", 2.0)
    assert canary.internal_errors() == {("record", "ConfigError"): 2}


# -- what is no recording ----------------------------------------------------------------------------------------------


class Odd:
    def __float__(self) -> float:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("cart", float("nan"), "ValueError"),
        ("cart", float("inf"), "ValueError"),
        ("cart", -float("inf"), "ValueError"),
        ("cart", 1e101, "ValueError"),
        ("cart", 10**400, "OverflowError"),
        ("cart", Decimal("NaN"), "ValueError"),
        ("cart", "12", "TypeError"),
        ("cart", b"12", "TypeError"),
        ("cart", [12], "TypeError"),
        ("cart", 1j, "TypeError"),
        ("cart", Odd(), "RuntimeError"),
        ("", 1.0, "TypeError"),
        ("cart value", 1.0, "TypeError"),
        ("a\nb", 1.0, "TypeError"),
        ("x" * 101, 1.0, "TypeError"),
        (None, 1.0, "TypeError"),
        (["cart"], 1.0, "TypeError"),
    ],
)
def test_what_cannot_be_recorded_is_told_once_and_never_raised(
    name: Any, value: Any, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    canary = made()
    with caplog.at_level(logging.ERROR, "canary_middleware"):
        for _ in range(3):
            canary.record(name, value, identity="u1")

    assert recorded(canary) == {}
    assert canary.internal_errors() == {("record", error): 3}
    assert len(caplog.records) == 1


def test_any_type_of_number_is_one() -> None:
    canary = made(weight=100)
    for value in (1, True, 0.5, Decimal("1.5"), Fraction(1, 2), 1e100, -1e100):
        canary.record("cart", value, identity="u1")  # type: ignore[arg-type]

    assert recorded(canary)["v2", "cart"].n == 7


def test_names_beyond_the_fiftieth_are_dropped_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    canary = made(weight=100)
    with caplog.at_level(logging.ERROR, "canary_middleware"):
        for _ in range(2):
            for n in range(MOST_NAMES + 10):
                canary.record(f"order.{n}", identity="u1")

    assert set(recorded(canary)) == {("v2", f"order.{n}") for n in range(MOST_NAMES)}
    assert {moments.times for moments in recorded(canary).values()} == {2}
    assert canary.internal_errors() == {("record", "ValueError"): 20}
    assert len(caplog.records) == 1


# -- exact under threads and forks -------------------------------------------------------------------------------------


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns as often as they can, so that a lost update shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(number: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("eager_switches")
def test_nothing_is_lost_between_threads_and_a_reader() -> None:
    canary = made(weight=100)
    is_over, drained = threading.Event(), [Moments()]

    def record() -> None:
        for n in range(3000):
            canary.record("cart", 2.0, identity="u1")
            canary.record(f"name.{n % 60}", identity="u1")

    def drain() -> None:
        before: dict[Any, Moments] = {}
        while not is_over.is_set() or recorded(canary)["v2", "cart"] != drained[0]:
            now = {} if canary.recordings is None else canary.recordings.snapshot()
            for (_, name), moments in difference(now, before).items():
                if name == "cart":
                    assert (moments.total, moments.squares) == (2.0 * moments.n, 4.0 * moments.n)
                    drained[0] = drained[0].plus(moments)
            before = now

    reader = threading.Thread(target=drain)
    reader.start()
    in_threads(6, record)
    is_over.set()
    reader.join(20)

    assert not reader.is_alive()
    assert drained == [Moments(18_000, 36_000.0, 72_000.0)]
    names = [name for _, name in recorded(canary)]
    assert len(names) == MOST_NAMES


def test_a_server_with_a_thread_per_request_keeps_a_constant_amount_of_memory() -> None:
    canary = made(weight=100)
    for _ in range(100):
        in_threads(1, lambda: canary.record("cart", 1, identity="u1"))

    assert isinstance(canary.recordings, Recordings)
    assert len(canary.recordings._live) <= 2
    assert recorded(canary)["v2", "cart"].n == 100
    assert canary.recordings._live == []


def test_a_new_thread_does_not_wait_for_a_reader() -> None:
    canary = made(weight=100)
    canary.record("cart", 1, identity="u1")
    assert canary.recordings is not None
    with canary.recordings._lock:
        in_threads(1, lambda: canary.record("cart", 1, identity="u1"))

    assert recorded(canary)["v2", "cart"].n == 2


def test_a_fork_records_from_zero() -> None:
    canary = made(weight=100)
    canary.record("cart", 1, identity="u1")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:  # pragma: no cover - another process
        canary.record("cart", 5, identity="u1")
        os.write(writer, json.dumps(recorded(canary)["v2", "cart"]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    said = json.loads(os.read(reader, 1000))
    os.close(reader)
    os.close(writer)

    assert said == [1, 5.0, 25.0, 0]


# -- on its way to the judge -------------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/canary.db"


def test_recordings_of_a_job_reach_the_store_and_two_workers_add_up(url: str) -> None:
    workers = [Canary("shop", key=["header:x-user-id"], store=url, environ={}) for _ in range(2)]
    workers[0].set_weight(100)
    for worker in workers:
        worker.record("warm.up", identity="u1")
        eventually(partial(worker.is_canary, "u1"))
        worker.record("cart_value", 2.5, identity="u1")
        worker.record("cart_value", 0.5, identity="u1")
        inside(begin(worker, "u1"), partial(worker.record, "views"))
    for worker in workers:
        worker.close()

    store = open_store(url)
    total: dict[str, Any] = {}
    for _, plain in store.counts():
        merge_plain(total, plain)
    store.close()
    assert total['["#custom","shop","v2","cart_value"]'] == {"n": 4, "sum": 6.0, "sq": 13.0}
    assert total['["#custom","shop","v2","views"]'] == {"times": 2}
    assert custom_of(total, "shop", "v2", "cart_value") == Moments(4, 6.0, 13.0)
    # Whoever reads requests passes over them.
    assert sum(cell.count for cell in from_plain(total).values()) == 2


def test_what_was_handed_over_is_not_handed_over_again(url: str) -> None:
    canary = Canary("shop", key=["header:x-user-id"], store=url, environ={})
    canary.set_weight(100)
    sharing = canary.sharing
    assert sharing is not None
    canary.record("cart", 1, identity="u1")
    canary.close()

    assert sharing._drain() is None
    assert canary.recordings is not None
    variant = next(iter(canary.recordings.snapshot()))[0]
    canary.recordings._add((variant, "cart"), 4.0)
    assert sharing._drain() == {'["#custom","shop","v2","cart"]': {"n": 1, "sum": 4.0, "sq": 16.0}}


@pytest.mark.parametrize(
    "found",
    [None, 5, {"n": "many"}, {"n": float("nan")}, {"n": -1}, {"n": 1, "sum": 1, "sq": -1}, {"n": 1, "sum": None}],
)
def test_recordings_that_cannot_be_read_are_none(found: object) -> None:
    assert custom_of({'["#custom","shop","v2","cart"]': found}, "shop", "v2", "cart") == Moments()


# -- limits ------------------------------------------------------------------------------------------------------------


def criteria(limits: dict[str, Any]) -> Criteria:
    plan = {"rollout": {"shop": {"criteria": {"custom": {"cart": limits}}}}}
    return parse(plan).rollouts[0].criteria


class Fleet:
    """Makes windows of counts, as workers would."""

    def __init__(self) -> None:
        self.canary = made()
        self.windows: list[tuple[int, dict[str, Any]]] = []
        self._variants = {v: self.canary.assign(user_of(self.canary, v))[0] for v in ("v1", "v2")}

    def second(self, v1: list[float], v2: list[float]) -> None:
        values = {"v1": v1, "v2": v2}
        fresh = {
            (self._variants[v], "cart"): Moments(len(found), sum(found), sum(x * x for x in found))
            for v, found in values.items()
        }
        self.windows.append((len(self.windows), custom_to_plain(fresh)))

    def counted(self, v1: tuple[int, int], v2: tuple[int, int]) -> None:
        """(requests, recordings without a value) of each version."""
        plain: dict[str, Any] = {}
        for version, (requests, times) in {"v1": v1, "v2": v2}.items():
            role = "stable" if version == "v1" else "canary"
            series = json.dumps(["shop", version, role, "weight", "GET", 200, "/", None, False], separators=(",", ":"))
            plain[series] = {"s": 0.0, "10": requests}
            plain |= custom_to_plain({(self._variants[version], "cart"): Moments(times=times)})
        self.windows.append((len(self.windows), plain))

    def only(self, limits: dict[str, Any], **options: Any) -> Test:
        (found,) = custom_findings(self.windows, criteria(limits), "shop", "v1", "v2", **options)
        return found


def spread(rng: Random, mean: float, n: int) -> list[float]:
    return [rng.gauss(mean, 1.0) for _ in range(n)]


@pytest.fixture
def fleet() -> Fleet:
    """Carts of 10 on v1 and 11 on v2, for a minute."""
    found, rng = Fleet(), Random(1)
    for _ in range(60):
        found.second(spread(rng, 10.0, 20), spread(rng, 11.0, 20))
    return found


@pytest.mark.parametrize(
    ("limits", "verdict", "value"),
    [
        ({"max": 12}, "pass", 11.0),
        ({"max": 10.5}, "fail", 11.0),
        ({"max": 11}, "inconclusive", 11.0),
        ({"min": 10.5}, "pass", 11.0),
        ({"min": 12}, "fail", 11.0),
        ({"max_increase": 2}, "pass", 1.0),
        ({"max_increase": 0.5}, "fail", 1.0),
        ({"max_increase": 1}, "inconclusive", 1.0),
        ({"max_ratio": 1.2}, "pass", 1.1),
        ({"max_ratio": 1.05}, "fail", 1.1),
        ({"max_ratio": 1.1}, "inconclusive", 1.1),
    ],
)
def test_each_kind_of_limit(fleet: Fleet, limits: dict[str, float], verdict: str, value: float) -> None:
    found = fleet.only(limits)

    assert found["verdict"] == verdict
    assert found["value"] == pytest.approx(value, abs=0.1)
    assert bool(found["sentence"]) is (verdict != "pass")


def test_a_broken_limit_is_told_in_a_sentence(fleet: Fleet) -> None:
    found = fleet.only({"max_increase": 0.5, "action": "pause"}, kind="guardrail")

    assert (found["name"], found["kind"], found["action"]) == ("custom.cart max_increase 0.5", "guardrail", "pause")
    assert found["sentence"].startswith("custom.cart max_increase 0.5 does not hold: v2 has 11")
    assert found["sentence"].endswith("of v1")


def test_several_bounds_are_several_tests(fleet: Fleet) -> None:
    found = custom_findings(fleet.windows, criteria({"max": 12, "max_ratio": 1.2}), "shop", "v1", "v2")

    assert [test["name"] for test in found] == ["custom.cart max 12", "custom.cart max_ratio 1.2"]


def test_other_limits_and_other_rollouts_are_not_looked_at(fleet: Fleet) -> None:
    plan = parse({"rollout": {"shop": {"criteria": {"error_rate": {"max": 0.01}}}}}).rollouts[0]

    assert custom_findings(fleet.windows, plan.criteria, "shop", "v1", "v2") == []
    (other,) = custom_findings(fleet.windows, criteria({"max": 1}), "search", "v1", "v2")
    assert other["verdict"] == "inconclusive"


def test_nothing_is_said_before_a_hundred_recordings_of_each_version_that_is_looked_at() -> None:
    fleet = Fleet()
    fleet.second([1.0] * (LEAST - 1), [5.0] * LEAST)

    assert fleet.only({"max_ratio": 1.1})["sentence"] == "1 more recordings of cart by v1"
    assert fleet.only({"max": 1.1})["verdict"] == "fail"
    fleet.second([1.0], [])
    assert fleet.only({"max_ratio": 1.1})["verdict"] == "fail"


def test_what_is_not_recorded_is_asked_for() -> None:
    assert 'canary.record("cart", …)' in Fleet().only({"max": 1})["sentence"]


def test_a_ratio_to_nothing_says_nothing() -> None:
    fleet = Fleet()
    fleet.second([-1.0] * 200, [5.0] * 200)

    found = fleet.only({"max_ratio": 1.1})

    assert (found["verdict"], found["value"]) == ("inconclusive", None)


@pytest.mark.parametrize(
    ("limits", "v2", "verdict"),
    [
        ({"max": 0.3}, 2000, "pass"),
        ({"max": 0.1}, 2000, "fail"),
        ({"min": 0.1}, 2000, "pass"),
        ({"min": 0.3}, 2000, "fail"),
        ({"max_ratio": 1.5}, 2000, "pass"),
        ({"max_ratio": 1.5}, 4000, "fail"),
        ({"min": 0.01}, 0, "fail"),
        ({"max": 0.01}, 0, "pass"),
        ({"max": 0.0001}, 0, "inconclusive"),
    ],
)
def test_what_is_recorded_without_a_value_is_judged_per_request(
    limits: dict[str, float], v2: int, verdict: str
) -> None:
    fleet = Fleet()
    fleet.counted((10_000, 2000), (10_000, v2))

    found = fleet.only(limits)

    assert found["verdict"] == verdict, found
    if "max_ratio" not in limits:
        assert found["value"] == v2 / 10_000


def test_with_and_without_a_value_do_not_mix() -> None:
    fleet = Fleet()
    fleet.counted((500, 50), (500, 50))
    fleet.second([1.0], [])

    assert "with a value and without" in fleet.only({"max": 1})["sentence"]
    few = Fleet()
    few.counted((50, 5), (50, 5))
    assert few.only({"max": 1})["sentence"] == "50 more requests to v2 to judge cart"


def test_windows_that_differ_more_than_their_values_count_for_less() -> None:
    steady, restless = Fleet(), Fleet()
    for n in range(40):
        steady.second([], [0.0, 2.0] * 10)
        restless.second([], [0.0 if n % 2 else 2.0] * 20)

    widths = []
    for fleet in (steady, restless):
        recorded = Recorded("shop", "v1", "v2")
        recorded.add(fleet.windows, criteria({"max": 1}))
        interval = recorded._sides["cart"][1].interval(False, 0.01)
        widths.append(interval.high - interval.low)

    assert widths[1] > 4 * widths[0]


def test_window_by_window_and_from_a_saved_state_it_is_the_same(fleet: Fleet) -> None:
    asked = criteria({"max_ratio": 1.05})
    step = Recorded("shop", "v1", "v2")
    for window in fleet.windows:
        step.add([window], asked)
        step = Recorded("shop", "v1", "v2", json.loads(json.dumps(step.state())))

    assert step.findings(asked) == custom_findings(fleet.windows, asked, "shop", "v1", "v2")


def test_only_names_that_the_plan_asks_for_are_kept(fleet: Fleet) -> None:
    recorded = Recorded("shop", "v1", "v2")
    recorded.add(fleet.windows, Criteria())

    assert recorded.state() == {}


def test_a_series_that_cannot_be_read_is_passed_over_and_hides_no_recording(fleet: Fleet) -> None:
    before = fleet.only({"max": 12})
    fleet.windows.append((99, {'["shop"': {"s": 1}}))
    assert fleet.only({"max": 12}) == before

    fleet.windows.append((100, {'["shop"': {"s": 1}, '["#custom","shop","v2","cart"]': {"n": 1, "sum": 1, "sq": 1}}))
    assert fleet.only({"max": 12})["value"] < before["value"]


def test_the_interval_is_that_of_the_paper() -> None:
    # By hand: ρ² = (2 ln 100 + ln(2 ln 100 + 1)) / 1000 = 0.0115336, n ρ² + 1 = 12.5336 at n = 1000.
    assert radius(1000, 1.0, 0.01) == pytest.approx(0.11294, abs=1e-5)
    assert radius(1000, 4.0, 0.01) == pytest.approx(2 * 0.11294, abs=2e-5)


def test_looking_again_and_again_condemns_no_equal_version() -> None:
    rng, condemned = Random(7), 0
    asked = criteria({"max_increase": 0.0, "max_ratio": 1.0, "max": 1.0})
    for _ in range(100):
        fleet, recorded = Fleet.__new__(Fleet), Recorded("shop", "v1", "v2")
        fleet.canary, fleet.windows = SHARED.canary, []
        fleet._variants = SHARED._variants
        worst = False
        for _ in range(60):
            fleet.second([rng.expovariate(1) for _ in range(30)], [rng.expovariate(1) for _ in range(10)])
            recorded.add(fleet.windows[-1:], asked)
            worst |= any(test["verdict"] == "fail" for test in recorded.findings(asked))
        condemned += worst

    assert condemned <= 2


SHARED = Fleet()
