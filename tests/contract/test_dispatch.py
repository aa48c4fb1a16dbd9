"""Which version answers, what it says of itself, and how its request is counted: the same behind every front door."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from canary_middleware import Canary, by_header, current
from canary_middleware.testing import force, recorded

from .behaviour import Broken, Call, Reply, echoes, raises, says, streams

if TYPE_CHECKING:
    from .drivers import Driver

USER = "x-user-id"


def make(**fields: object) -> Canary:
    """A Canary at 10 % by user, unless *fields* say otherwise."""
    return Canary("checkout", **{"weight": 10, "key": [by_header(USER)], "environ": {}, **fields})  # type: ignore[arg-type]


def test_each_user_gets_the_version_that_the_hash_gives(driver: Driver) -> None:
    canary = make(weight=30)

    with driver.serve(canary, {"v1": says("one"), "v2": says("two")}) as client:
        for n in range(200):
            user = f"user-{n}"
            answer = client(headers={USER: user})
            expected = canary.version_for(user)

            assert (answer.text, answer.header("X-Canary-Version")) == (
                {"v1": "one", "v2": "two"}[expected],
                expected,
            )


@pytest.mark.parametrize(("weight", "expected"), [(0, "one"), (100, "two")])
def test_0_percent_is_nobody_and_100_percent_is_everybody(driver: Driver, weight: int, expected: str) -> None:
    with driver.serve(make(weight=weight), {"v1": says("one"), "v2": says("two")}) as client:
        assert {client(headers={USER: f"user-{n}"}).text for n in range(50)} == {expected}


def test_a_request_without_identity_gets_stable(driver: Driver) -> None:
    canary = make(weight=100)

    with driver.serve(canary, {"v1": says("one"), "v2": says("two")}) as client, recorded(canary) as outcomes:
        assert client().text == "one"
        assert client(headers={USER: ""}).text == "one"

    assert [o.assignment.reason for o in outcomes] == ["no_identity", "no_identity"]


def test_the_app_sees_its_assignment(driver: Driver) -> None:
    def tells(call: Call) -> Reply:
        assigned = current()
        return Reply(body=f"{assigned.version} {assigned.role} {assigned.reason} {assigned.bucket}".encode())

    canary = make(weight=100)

    with driver.serve(canary, {"v1": tells, "v2": tells}) as client:
        answer = client(headers={USER: "user-7"})

    assert answer.text == f"v2 canary weight {canary.explain('user-7')['bucket']}"


def test_three_versions_share_the_canary_weight(driver: Driver) -> None:
    canary = make(weight=50, canary={"v2": 80, "v3": 20})

    with driver.serve(canary, {"v1": says("v1"), "v2": says("v2"), "v3": says("v3")}) as client:
        answers = {f"user-{n}": client(headers={USER: f"user-{n}"}).text for n in range(120)}

    assert answers == {user: canary.version_for(user) for user in answers}
    assert set(answers.values()) == {"v1", "v2", "v3"}


def test_paths_outside_the_rollout_are_served_by_stable_untouched(driver: Driver) -> None:
    canary = make(weight=100, endpoints=["GET /checkout/*"])

    with driver.serve(canary, {"v1": says("one"), "v2": says("two")}) as client, recorded(canary) as outcomes:
        covered = client(target="/checkout/basket", headers={USER: "u"})
        other = client(target="/about", headers={USER: "u"})
        posted = client("POST", "/checkout/basket", headers={USER: "u"})

    assert (covered.text, other.text, posted.text) == ("two", "one", "one")
    assert other.header("X-Canary-Version") is None
    assert len(outcomes) == 1


def test_a_path_prefix_is_rewritten_to_that_of_the_version(driver: Driver) -> None:
    canary = make(weight=100)
    rewrite = {"v1": "/api/v1", "v2": "/api/v2"}

    def where(call: Call) -> Reply:
        return Reply(body=call.path.encode())

    with driver.serve(canary, {"v1": where, "v2": where}, rewrite=rewrite) as client:
        assert client(target="/api/v1/posts/5", headers={USER: "u"}).text == "/api/v2/posts/5"
        assert client(target="/api/v2/posts/5").text == "/api/v1/posts/5"


def test_a_path_prefix_may_be_any_text(driver: Driver) -> None:
    canary = make(weight=100)

    def where(call: Call) -> Reply:
        return Reply(body=call.path.encode())

    with driver.serve(canary, {"v1": where, "v2": where}, rewrite={"v1": "/école", "v2": "/é2"}) as client:
        assert client(target=quote("/école/über"), headers={USER: "u"}).text == "/é2/über"
        assert client(target=quote("/é2/a b")).text == "/école/a b"


def test_a_streamed_answer_arrives_whole_and_is_counted_once(driver: Driver) -> None:
    canary = make(weight=100)

    with (
        driver.serve(canary, {"v1": says("one"), "v2": streams(b"a", b"b", b"c")}) as client,
        recorded(canary) as ended,
    ):
        answer = client(headers={USER: "u"})

    assert answer.body == b"abc"
    assert [(o.status, o.is_aborted, o.error_type) for o in ended] == [(200, False, None)]


def test_a_client_that_leaves_is_neither_success_nor_failure(driver: Driver) -> None:
    canary = make(weight=100, fallback="never")

    with driver.serve(canary, {"v1": says("one"), "v2": streams(*[b"x"] * 50)}) as client, recorded(canary) as ended:
        client(headers={USER: "u"}, read=2)
        gc.collect()  # Django under ASGI drops the response of a client that left without closing it

    assert [o.is_aborted for o in ended] == [True]
    summary = canary.metrics_summary()["canary"]
    assert (summary["request_count"], summary["error_count"], summary["aborted_count"]) == (0, 0, 1)


def test_an_error_of_the_app_passes_and_counts(driver: Driver) -> None:
    canary = make(weight=100, fallback="never")

    with driver.serve(canary, {"v1": says("one"), "v2": raises}) as client, recorded(canary) as ended:
        answer = client(headers={USER: "u"})

    assert answer.status == 500
    assert isinstance(answer.error, Broken) == driver.has_middleware_exceptions
    assert [(o.status, o.error_type) for o in ended] == [(500, "Broken")]


def test_a_4xx_is_no_failure(driver: Driver) -> None:
    canary = make(weight=100)

    with driver.serve(canary, {"v1": says("one"), "v2": says("no", 404)}) as client:
        assert client(headers={USER: "u"}).status == 404

    assert canary.metrics_summary()["canary"]["error_count"] == 0


def test_force_reaches_every_request_and_restores(driver: Driver) -> None:
    canary = make(weight=0)

    with driver.serve(canary, {"v1": says("one"), "v2": says("two")}) as client:
        with force(canary, "v2"):
            assert client().text == "two"
        assert client().text == "one"


def test_every_request_is_counted_exactly_once(driver: Driver) -> None:
    canary = make(weight=30)

    with driver.serve(canary, {"v1": says("one"), "v2": echoes("two")}) as client:
        for n in range(100):
            client(headers={USER: f"user-{n}"})

    split = canary.metrics_summary()["comparison"]["traffic_split"]
    on_canary = sum(canary.is_canary(f"user-{n}") for n in range(100))
    assert (split["canary_requests"], split["legacy_requests"]) == (on_canary, 100 - on_canary)


def test_our_headers_are_appended_to_those_of_the_app(driver: Driver) -> None:
    app_headers = (("Vary", "Accept"), ("Cache-Control", "max-age=60"))

    with driver.serve(make(), {"v1": says("one", 200, app_headers), "v2": says("two")}) as client:
        answer = client()

    assert answer.header("Vary") == f"Accept, {USER}"
    assert answer.header("Cache-Control") == "max-age=60"


def test_the_version_header_can_be_turned_off(driver: Driver) -> None:
    canary = make(version_header=None, cache_headers=False)

    with driver.serve(canary, {"v1": says("one"), "v2": says("two")}) as client:
        answer = client()

    assert answer.header("X-Canary-Version") is None
    assert answer.header("Vary") is None or driver.name.startswith("django")
