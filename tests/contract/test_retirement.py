"""What the environment says of a rollout stands above its weight, to the last day of the stable version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_header
from canary_middleware.errors import ConfigError, TransitionRefused
from canary_middleware.testing import recorded

from .behaviour import says

if TYPE_CHECKING:
    from .drivers import Driver

TOKEN = "t0ken"
WEIGHT, ENABLED, LEGACY = "API_V2_TRAFFIC_PERCENTAGE", "API_V2_ENABLED", "USE_LEGACY_API_V1"
BOTH = {"v1": says("one"), "v2": says("two")}
END = {
    "deprecation": "2026-01-01T00:00:00Z",
    "sunset": "2026-07-01T12:00:00Z",
    "deprecation_link": "https://example.org/v1-ends",
    "sunset_link": "https://example.org/v1-off",
    "successor": "https://example.org/v2",
}
LINKS = (
    '<https://example.org/v1-ends>; rel="deprecation", <https://example.org/v1-off>; rel="sunset", '
    '<https://example.org/v2>; rel="successor-version"'
)


def make(environ: dict[str, str] | None = None, **fields: Any) -> Canary:
    """A Canary at weight 10 by user, with an end of life for v1."""
    given = {"weight": 10, "key": [by_header("x-user-id")], "end_of_life": END, **fields}
    return Canary("api", environ={"CANARY_OVERRIDE_TOKEN": TOKEN, **(environ or {})}, **given)


def users(driver: Driver, canary: Canary, count: int = 40) -> list[str]:
    """What so many users get."""
    with driver.serve(canary, BOTH) as client:
        return [client(headers={"x-user-id": f"user-{n}"}).text for n in range(count)]


@pytest.mark.parametrize(("text", "expected"), [("0", {"one"}), ("100", {"two"}), (" 50.0 ", {"one", "two"})])
def test_the_environment_pins_the_weight(driver: Driver, text: str, expected: set[str]) -> None:
    canary = make({WEIGHT: text})

    assert set(users(driver, canary)) == expected
    with pytest.raises(TransitionRefused, match=WEIGHT):
        canary.set_weight(20)


def test_a_thousand_identities_at_10_percent_are_about_a_hundred() -> None:
    canary = make({WEIGHT: "10"})

    assert 70 <= sum(canary.is_canary(f"user-{n}") for n in range(1000)) <= 130


def test_a_canary_that_is_switched_off_serves_nobody_whatever_the_weight(driver: Driver) -> None:
    canary = make({WEIGHT: "100", ENABLED: "false"}, overrides={"users": {"v2": ["user-1"]}})

    assert set(users(driver, canary)) == {"one"}


def test_without_variables_the_plan_stands(driver: Driver) -> None:
    canary = make({ENABLED: "true", LEGACY: "true"}, weight=100)

    assert set(users(driver, canary)) == {"two"}


@pytest.mark.parametrize("text", ["abc", "-1", "101", "", "1e2", "50%", "100.00001", "٥", "nan", "0x10", "+5"])
def test_a_wrong_weight_is_named_at_start_and_never_becomes_a_hundred(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make({WEIGHT: text})

    assert all(word in str(caught.value) for word in (WEIGHT, repr(text), "0 … 100"))


@pytest.mark.parametrize("name", [ENABLED, LEGACY])
@pytest.mark.parametrize("text", ["maybe", "", "2", "flase"])
def test_a_wrong_switch_is_named_at_start(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make({name: text})

    assert all(word in str(caught.value) for word in (name, repr(text), "true or false"))


def test_every_wrong_variable_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make({WEIGHT: "101", ENABLED: "x", LEGACY: "y"})

    assert all(name in str(caught.value) for name in (WEIGHT, ENABLED, LEGACY))


def test_both_versions_cannot_be_off() -> None:
    with pytest.raises(ConfigError, match="nobody is left to serve"):
        make({ENABLED: "no", LEGACY: "off"})


def test_a_plan_may_name_its_own_variables(driver: Driver) -> None:
    canary = make({"SHOP_V2": "100", WEIGHT: "0"}, env={"weight": "SHOP_V2"})

    assert set(users(driver, canary)) == {"two"}


def test_several_rollouts_have_no_variables_unless_they_name_them(driver: Driver) -> None:
    table = {"weight": 0, "key": ["header:x-user-id"]}
    plan = {"schema": 1, "rollout": {"a": table, "b": {**table, "env": {"weight": "B"}}}}
    canary = Canary.load(plan, environ={WEIGHT: "100", "B": "100"})

    assert (canary.is_canary("u", rollout="a"), canary.is_canary("u", rollout="b")) == (False, True)


# -- v1 retired ---------------------------------------------------------------------------------------------------


def test_a_retired_stable_leaves_everyone_on_the_canary(driver: Driver) -> None:
    canary = make({LEGACY: "false", WEIGHT: "0"})

    with driver.serve(canary, BOTH) as client, recorded(canary) as outcomes:
        assert [client(headers={"x-user-id": f"user-{n}"}).text for n in range(20)] == ["two"] * 20
        assert client().text == "two"

    assert {o.assignment.reason for o in outcomes} == {"retired"}


def test_a_retired_stable_serves_nobody_while_the_store_is_unheard_of(driver: Driver) -> None:
    canary = make({LEGACY: "false"})
    canary.change("boot", lambda rollout: rollout._replace(is_known=False))

    assert set(users(driver, canary, 5)) == {"two"}


@pytest.mark.parametrize("fallback", ["safe-methods", "idempotent"])
def test_a_retired_stable_answers_for_nobody(driver: Driver, fallback: str) -> None:
    canary = make({LEGACY: "false"}, fallback=fallback)

    with driver.serve(canary, {"v1": says("one"), "v2": says("broken", 503)}) as client:
        answer = client(headers={"x-user-id": "amy"})

    assert (answer.status, answer.text, answer.header("X-Canary-Fallback")) == (503, "broken", None)


@pytest.mark.parametrize(
    "pinned", [{"X-Canary": "v1", "X-Canary-Token": TOKEN}, {"X-Canary": "never", "X-Canary-Token": TOKEN}, {}]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_who_is_pinned_to_a_retired_version_is_told_where_to_go(
    driver: Driver, method: str, pinned: dict[str, str]
) -> None:
    canary = make({LEGACY: "false"}, overrides={"users": {"v1": ["vip"]}})
    body = b"x" if method == "POST" else b""

    with driver.serve(canary, BOTH) as client, recorded(canary) as outcomes:
        answer = client(method, headers={"x-user-id": "vip", **pinned}, body=body)

    assert answer.status == 410
    assert answer.header("Link") == LINKS
    assert answer.header("Deprecation") == "@1767225600"
    assert answer.header("Sunset") == "Wed, 01 Jul 2026 12:00:00 GMT"
    assert answer.header("Content-Type") == "text/plain; charset=utf-8"
    assert b"retired" in answer.body or method == "HEAD"
    assert [(o.status, o.served_by) for o in outcomes] == [(410, "v1")]


def test_a_retired_version_never_runs(driver: Driver) -> None:
    ran: list[str] = []
    canary = make({LEGACY: "false"}, overrides={"users": {"v1": ["vip"]}})

    def runs(call: Any) -> Any:
        ran.append(call.method)
        return says("one")(call)

    with driver.serve(canary, {"v1": runs, "v2": says("two")}) as client:
        client(headers={"x-user-id": "vip"})

    assert ran == []


def test_an_emergency_brings_a_retired_version_back_rather_than_turning_everyone_away(driver: Driver) -> None:
    canary = make({LEGACY: "false"})
    canary.emergency()

    assert set(users(driver, canary, 5)) == {"one"}


# -- the end of life of v1 ----------------------------------------------------------------------------------------


def _completed(canary: Canary) -> Canary:
    from canary_middleware._core.lifecycle import transitions

    def complete(rollout: Any) -> Any:
        while rollout.phase != "baking":
            rollout = transitions.advance(rollout)
        return transitions.complete(rollout)

    canary.start()
    canary.change("complete", complete)
    return canary


def _staged(**fields: Any) -> Canary:
    return make(weight=0, stages=[50, 100], duration="1m", bake="1m", overrides={"users": {"v1": ["vip"]}}, **fields)


def test_answers_of_v1_say_when_it_ends_only_after_completion(driver: Driver) -> None:
    canary = _staged()

    with driver.serve(canary, BOTH) as client:
        canary.start()
        before = client(headers={"x-user-id": "vip"})
    canary = _completed(_staged())
    with driver.serve(canary, BOTH) as client:
        after = client(headers={"x-user-id": "vip"})
        canarys = client(headers={"x-user-id": "amy"})

    assert (after.text, canarys.text) == ("one", "two")
    assert (after.header("Deprecation"), after.header("Sunset"), after.header("Link")) == (
        "@1767225600",
        "Wed, 01 Jul 2026 12:00:00 GMT",
        LINKS,
    )
    for answer in (before, canarys):
        assert [answer.header(name) for name in ("Deprecation", "Sunset", "Link")] == [None] * 3


def test_links_of_the_app_stay_before_ours(driver: Driver) -> None:
    versions = {"v1": says("one", 200, (("Link", "</next>; rel=next"),)), "v2": says("two")}

    with driver.serve(_completed(_staged()), versions) as client:
        answer = client(headers={"x-user-id": "vip"})

    assert answer.header("Link") == f"</next>; rel=next, {LINKS}"


def test_an_answer_of_stable_in_the_canarys_stead_is_one_of_v1(driver: Driver) -> None:
    with driver.serve(_completed(_staged()), {"v1": says("one"), "v2": says("", 500)}) as client:
        answer = client(headers={"x-user-id": "amy"})

    assert (answer.text, answer.header("Deprecation")) == ("one", "@1767225600")


def test_a_completed_rollout_with_v1_retired_says_its_end_once(driver: Driver) -> None:
    canary = _completed(_staged(environ={LEGACY: "false"}))

    with driver.serve(canary, BOTH) as client:
        answer = client(headers={"x-user-id": "vip"})

    assert (answer.status, answer.header("Deprecation"), answer.header("Link")) == (410, "@1767225600", LINKS)
    assert answer.header("Sunset") == "Wed, 01 Jul 2026 12:00:00 GMT"


def test_an_end_before_its_announcement_is_refused() -> None:
    with pytest.raises(ConfigError, match="sunset"):
        make(end_of_life={"deprecation": "2026-07-01T00:00:00Z", "sunset": "2026-01-01T00:00:00Z"})
