"""What apps test themselves with: a forced version, recorded outcomes, a clock that stands still."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from canary_middleware import Canary
from canary_middleware._core.exchange import Exchange, Failure
from canary_middleware.errors import ConfigError
from canary_middleware.testing import FakeClock, force, recorded

from .core.heads import Head


def canary(**fields: Any) -> Canary:
    return Canary("checkout", environ={}, key=["header:x-user-id"], **fields)


def begin(served: Canary, user: str = "user") -> Exchange:
    exchange = served.begin(Head(headers={"x-user-id": user}))
    assert exchange is not None
    return exchange


def version(served: Canary) -> str:
    return begin(served).assignment.version


def test_a_forced_version_is_everybodys_until_the_block_ends() -> None:
    served = canary()

    with force(served, "v2"):
        assert begin(served).assignment.reason == "forced"
        assert version(served) == "v2"

    assert version(served) == "v1"


def test_a_forced_version_stands_above_every_latch() -> None:
    served = canary()
    served.emergency()

    with force(served, "v2"):
        assert version(served) == "v2"


def test_an_exception_in_the_block_ends_it_too() -> None:
    served = canary()

    with pytest.raises(RuntimeError), force(served, "v2"):
        raise RuntimeError

    assert version(served) == "v1"


def test_it_may_be_a_decorator() -> None:
    served = canary()

    @force(served, "v2")
    def test() -> str:
        return version(served)

    assert [test(), version(served), test()] == ["v2", "v1", "v2"]


def test_blocks_nest_and_what_changes_meanwhile_stays_changed() -> None:
    served = canary()

    with force(served, "v2"):
        served.set_weight(100)
        with force(served, "v1"):
            assert version(served) == "v1"
            served.roll_back()
            served.retry()
            served.set_weight(30)
            assert version(served) == "v1"
        assert version(served) == "v2"

    assert served.rollout().weight_ppm == 300_000
    assert begin(served).assignment.reason == "weight"
    assert begin(served).assignment.revision == 4


def test_only_rollouts_with_that_version_are_forced() -> None:
    served = Canary.load(
        {
            "rollout": {
                "search": {"endpoints": ["/search"], "canary": "beta"},
                "cart": {"endpoints": ["/cart"]},
                "list": {"endpoints": ["/list"]},
            }
        },
        environ={},
    )

    def versions() -> list[str]:
        found = [served.begin(Head(path=path)) for path in ("/search", "/cart", "/list")]
        return [exchange.assignment.version for exchange in found if exchange is not None]

    with force(served, "v2"):
        assert versions() == ["v1", "v2", "v2"]
    with force(served, "v2", rollout="cart"):
        assert versions() == ["v1", "v2", "v1"]
        with force(served, "beta"):
            assert versions() == ["beta", "v2", "v1"]
    assert versions() == ["v1", "v1", "v1"]


def test_a_version_that_nobody_has_is_refused_with_those_there_are() -> None:
    served = canary()

    with pytest.raises(ConfigError, match=r"cannot force 'v9': the versions are v1, v2"), force(served, "v9"):
        pass

    assert version(served) == "v1"


def test_outcomes_are_recorded_in_the_order_in_which_requests_end() -> None:
    clock = FakeClock()
    served = Canary("checkout", environ={}, key=["header:x-user-id"], weight=100, clock=clock, now=clock.now)
    with recorded(served) as outcomes:
        first, second, third, fourth = (begin(served) for _ in range(4))
        clock.advance(0.25)
        second.status = 200
        second.route = "/a/{b}"
        second.finish()
        clock.advance(0.25)
        first.raised(ValueError("x"))
        third.fall_back(Failure(503, "503"))
        third.status = 200
        third.finish()
        fourth.missed = "started"
        fourth.aborted()
    begin(served).finish()

    assert [(o.status, o.error_type, o.duration_s) for o in outcomes] == [
        (200, None, 0.25),
        (500, "ValueError", 0.5),
        (200, "503", 0.5),
        (0, None, 0.5),
    ]
    assert (outcomes[0].method, outcomes[0].route) == ("GET", "/a/{b}")
    assert [o.served_by for o in outcomes] == ["v2", "v2", "v1", "v2"]
    assert [o.assignment.version for o in outcomes] == ["v2"] * 4
    assert [o.fell_back for o in outcomes] == [False, False, True, False]
    assert [o.is_aborted for o in outcomes] == [False, False, False, True]
    assert outcomes[3].missed == "started"


def test_two_recordings_do_not_disturb_each_other() -> None:
    served = canary()

    with recorded(served) as outer:
        with recorded(served) as inner:
            begin(served).finish()
        begin(served).finish()

    assert (len(inner), len(outer)) == (1, 2)


def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock(now_s=1_000.0)
    assert (clock(), clock.now()) == (0.0, 1_000.0)

    clock.advance(5)
    clock.jump(-100)

    assert (clock(), clock.now()) == (5.0, 905.0)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_clock_does_not_advance_backwards(seconds: float) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        FakeClock().advance(seconds)


def test_the_contract_of_stores_is_at_hand_without_a_test_runner() -> None:
    # What is there before us, such as whatever measures this test, is not our doing.
    code = """
import sys
before = set(sys.modules)
from canary_middleware.testing import StoreContract
from canary_middleware.stores.memory import MemoryStore
class TestMine(StoreContract):
    def open(self):
        return MemoryStore()
TestMine().test_a_rollout_is_registered_once()
print(sorted({"pytest", "unittest", "redis", "sqlite3"} & (set(sys.modules) - before)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ran.stdout, ran.stderr) == ("[]\n", "")
