"""A forced version needs the right to it; without, the request is served as if it had asked for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_header
from canary_middleware._core.assignment.override import sign
from canary_middleware.errors import ConfigError
from canary_middleware.testing import FakeClock, recorded

from .behaviour import says

if TYPE_CHECKING:
    from .drivers import Driver

TOKEN = "t0ken"
BOTH = {"v1": says("one"), "v2": says("two")}


def make(clock: FakeClock | None = None, **fields: Any) -> Canary:
    """Everyone on v1, overrides allowed by header and cookie."""
    clock = clock or FakeClock()
    given = {"weight": 0, "key": [by_header("x-user-id")], "overrides": {"cookie": "canary"}, **fields}
    environ = {"CANARY_OVERRIDE_TOKEN": TOKEN, **given.pop("environ", {})}
    return Canary("checkout", clock=clock, now=clock.now, environ=environ, **given)


@pytest.mark.parametrize(("wanted", "expected"), [("v2", "two"), ("always", "two"), ("never", "one"), ("v1", "one")])
@pytest.mark.parametrize("weight", [0, 100])
def test_the_token_opens_every_version(driver: Driver, weight: int, wanted: str, expected: str) -> None:
    canary = make(weight=weight)

    with driver.serve(canary, BOTH) as client, recorded(canary) as outcomes:
        answer = client(headers={"X-Canary": wanted, "X-Canary-Token": TOKEN, "x-user-id": "amy"})

    assert answer.text == expected
    assert [o.assignment.reason for o in outcomes] == ["override"]


def test_a_signed_value_opens_it_by_header_and_by_cookie_without_the_token(driver: Driver) -> None:
    canary = make()
    value = canary.override("v2")

    with driver.serve(canary, BOTH) as client:
        assert client(headers={"X-Canary": value}).text == "two"
        assert client(headers={"cookie": f"a=b; canary={value}"}).text == "two"
        assert client(headers={"cookie": f'canary="{value}"'}).text == "two"

    assert TOKEN not in value
    assert canary.internal_errors() == {}


def test_an_answer_that_stable_gave_for_a_forced_canary_is_for_nobody_else(driver: Driver) -> None:
    canary = make()

    with driver.serve(canary, {"v1": says("one"), "v2": says("broken", 503)}) as client:
        answer = client(headers={"X-Canary": "v2", "X-Canary-Token": TOKEN})

    assert answer.text == "one"
    assert ("cache-control", "private") in [(name.lower(), value) for name, value in answer.headers]


def _forgeries() -> dict[str, dict[str, str]]:
    until = 2_000_000_000
    good = sign("v2", token=TOKEN, until_s=until)
    return {
        "no token": {"X-Canary": "v2"},
        "wrong token": {"X-Canary": "v2", "X-Canary-Token": "guess"},
        "empty token": {"X-Canary": "v2", "X-Canary-Token": ""},
        "token with more": {"X-Canary": "v2", "X-Canary-Token": TOKEN + "x"},
        "token of other letters": {"X-Canary": "v2", "X-Canary-Token": "tökén"},
        "token as the version": {"X-Canary": TOKEN},
        "other secret": {"X-Canary": sign("v2", token="guess", until_s=until)},
        "empty secret": {"X-Canary": sign("v2", token="", until_s=until)},
        "other version": {"X-Canary": good.replace("v2", "always")},
        "longer life": {"X-Canary": good.replace(str(until), str(until + 1))},
        "no end": {"X-Canary": good.replace(str(until), "")},
        "endless": {"X-Canary": good.replace(str(until), "9" * 5000)},
        "negative": {"X-Canary": good.replace(str(until), "-1")},
        "other digits": {"X-Canary": good.replace(str(until), "٣")},
        "no signature": {"X-Canary": "v2~2000000000~"},
        "one part": {"X-Canary": "~"},
        "not ASCII": {"X-Canary": "v2~2000000000~é"},
        "cookie without signature": {"cookie": "canary=v2"},
        "cookie with the token": {"cookie": f"canary=v2; X-Canary-Token={TOKEN}", "X-Canary-Token": TOKEN},
        "huge": {"X-Canary": "v2~1~" + "a" * 100_000},
        "expired": {"X-Canary": sign("v2", token=TOKEN, until_s=1_700_000_000)},
    }


@pytest.mark.parametrize("forgery", _forgeries())
def test_who_has_no_right_is_served_as_if_it_had_asked_for_nothing(driver: Driver, forgery: str) -> None:
    canary = make()

    with driver.serve(canary, BOTH) as client, recorded(canary) as outcomes:
        answer = client(headers={**_forgeries()[forgery], "x-user-id": "amy"})

    assert (answer.status, answer.text) == (200, "one")
    assert [o.assignment.reason for o in outcomes] == ["weight"]
    assert canary.internal_errors() == {("override", "Rejected"): 1}


def test_a_signed_value_ends_with_its_hour(driver: Driver) -> None:
    clock = FakeClock()
    canary = make(clock)
    value = canary.override("v2", expires_in_s=60)

    with driver.serve(canary, BOTH) as client:
        clock.advance(59)
        assert client(headers={"X-Canary": value}).text == "two"
        clock.advance(1)
        assert client(headers={"X-Canary": value}).text == "one"


@pytest.mark.parametrize("wanted", ["v3", "V2", "", " ", "stable", "canary", "v2,v2"])
def test_a_version_that_is_none_is_not_forced(driver: Driver, wanted: str) -> None:
    canary = make()

    with driver.serve(canary, BOTH) as client, recorded(canary) as outcomes:
        client(headers={"X-Canary": wanted, "X-Canary-Token": TOKEN, "x-user-id": "amy"})
        client(headers={"X-Canary": canary.override(wanted), "x-user-id": "amy"})

    assert [o.assignment.reason for o in outcomes] == ["weight", "weight"]


def test_a_forced_request_never_counts_as_a_fair_one(driver: Driver) -> None:
    canary = make(weight=100)

    with driver.serve(canary, BOTH) as client:
        client(headers={"X-Canary": "v2", "X-Canary-Token": TOKEN, "x-user-id": "amy"})
        client(headers={"X-Canary": "v1", "X-Canary-Token": TOKEN, "x-user-id": "amy"})

    by_reason = {key.variant.reason for key in canary.counts.snapshot().series}
    assert by_reason == {"override"}


def test_headers_that_lie_about_the_version_are_only_headers(driver: Driver) -> None:
    canary = make(weight=0)
    lies = {
        "X-Canary-Version": "v2",
        "X-Canary-Fallback": "1",
        "X-Canary-Role": "canary",
        "baggage": "deployment.version=v2",
        "X-Canary-Token": TOKEN,
        "x-user-id": "amy",
    }

    with driver.serve(canary, BOTH) as client, recorded(canary) as outcomes:
        answer = client(headers=lies)

    assert (answer.text, answer.header("X-Canary-Version"), answer.header("X-Canary-Fallback")) == ("one", "v1", None)
    assert [o.assignment.reason for o in outcomes] == ["weight"]


def test_without_a_token_in_the_environment_nobody_can_force_anything(driver: Driver) -> None:
    canary = make(environ={"CANARY_OVERRIDE_TOKEN": ""})
    headers = [
        {"X-Canary": "v2", "X-Canary-Token": ""},
        {"X-Canary": "v2"},
        {"X-Canary": sign("v2", token="", until_s=2_000_000_000)},
    ]

    with driver.serve(canary, BOTH) as client:
        assert [client(headers=h).text for h in headers] == ["one"] * 3

    with pytest.raises(ConfigError, match="CANARY_OVERRIDE_TOKEN"):
        canary.override("v2")


def test_an_override_may_go_by_another_name_or_by_none(driver: Driver) -> None:
    named = make(overrides={"header": "X-Try", "token_env": "TRY"}, environ={"TRY": "other"})
    off = make(overrides={"header": False})

    with driver.serve(named, BOTH) as client:
        assert client(headers={"X-Try": "v2", "X-Canary-Token": "other"}).text == "two"
        assert client(headers={"X-Canary": "v2", "X-Canary-Token": TOKEN}).text == "one"
    with driver.serve(off, BOTH) as client:
        assert client(headers={"X-Canary": "v2", "X-Canary-Token": TOKEN}).text == "one"


def test_an_override_is_above_lists_segments_and_a_rollback_and_below_the_switches(driver: Driver) -> None:
    forced = {"X-Canary": "v2", "X-Canary-Token": TOKEN, "x-user-id": "amy"}
    listed = make(
        overrides={"users": {"v1": ["amy"]}}, segments=[{"name": "s", "when": {"identity": ["amy"]}, "version": "v1"}]
    )
    rolled_back = make(weight=100)
    rolled_back.roll_back()
    disabled = make(weight=100, environ={"API_V2_ENABLED": "false"})
    emergency = make(weight=100)
    emergency.emergency()

    for canary, expected in ((listed, "two"), (rolled_back, "two"), (disabled, "one"), (emergency, "one")):
        with driver.serve(canary, BOTH) as client:
            assert client(headers=forced).text == expected, canary


def test_a_list_of_users_reaches_both_versions_whatever_the_weight(driver: Driver) -> None:
    canary = make(weight=50, overrides={"users": {"v2": ["qa-1"], "v1": ["vip"]}})

    with driver.serve(canary, BOTH) as client, recorded(canary) as outcomes:
        for weight in (0, 100):
            canary.set_weight(weight)
            assert client(headers={"x-user-id": "qa-1"}).text == "two"
            assert client(headers={"x-user-id": "vip"}).text == "one"

    assert {o.assignment.reason for o in outcomes} == {"user"}
