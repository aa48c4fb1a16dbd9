"""A canary that fails before its first byte is answered by stable, in the same request, behind every front door."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from canary_middleware.testing import recorded

from .behaviour import Behaviour, Call, Reply, echoes, raises, says, streams
from .test_dispatch import USER, make

if TYPE_CHECKING:
    from canary_middleware import Canary

    from .drivers import Driver


def everyone(**fields: object) -> Canary:
    return make(weight=100, **fields)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_stable_answers_for_a_canary_that_says_it_failed(driver: Driver, status: int) -> None:
    canary = everyone()

    with driver.serve(canary, {"v1": echoes("one"), "v2": says("broken", status)}) as client, recorded(canary) as ended:
        answer = client(headers={USER: "u"})

    assert (answer.status, answer.text) == (200, "one GET ")
    assert (answer.header("X-Canary-Fallback"), answer.header("X-Canary-Version")) == ("1", "v1")
    assert [(o.assignment.version, o.served_by, o.error_type, o.fell_back) for o in ended] == [
        ("v2", "v1", str(status), True)
    ]


def test_stable_answers_for_a_canary_that_raises(driver: Driver) -> None:
    canary = everyone()

    with driver.serve(canary, {"v1": echoes("one"), "v2": raises}) as client, recorded(canary) as ended:
        answer = client(headers={USER: "u"})

    assert (answer.status, answer.text, answer.error) == (200, "one GET ", None)
    assert [(o.error_type, o.fell_back) for o in ended] == [("Broken", True)]
    summary = canary.metrics_summary()
    assert (summary["canary"]["error_count"], summary["legacy"]["request_count"]) == (1, 0)


@pytest.mark.parametrize("status", [400, 404, 501, 505])
def test_other_statuses_are_the_canarys_own_answer(driver: Driver, status: int) -> None:
    with driver.serve(everyone(), {"v1": says("one"), "v2": says("two", status)}) as client:
        answer = client(headers={USER: "u"})

    assert (answer.status, answer.text) == (status, "two")


def test_a_stream_that_fails_before_its_first_byte_falls_back(driver: Driver) -> None:
    if driver.name.startswith("django"):
        # Django hands the stream to the server after the middlewares; its first byte is out of their reach.
        return
    canary = everyone()

    with driver.serve(canary, {"v1": says("one"), "v2": streams(then=RuntimeError("late"))}) as client:
        answer = client(headers={USER: "u"})

    assert (answer.status, answer.text, answer.error) == (200, "one", None)


def test_a_stream_that_fails_after_its_first_byte_passes_through_and_is_counted_apart(driver: Driver) -> None:
    canary = everyone()
    broken = streams(b"first", then=RuntimeError("late"))

    with driver.serve(canary, {"v1": says("one"), "v2": broken}) as client, recorded(canary) as ended:
        answer = client(headers={USER: "u"})

    assert answer.body == b"first"
    assert [(o.error_type, o.fell_back, o.status) for o in ended] == [("RuntimeError", False, 500)]


def test_an_unsafe_method_is_never_run_twice(driver: Driver) -> None:
    seen: list[str] = []

    def counts(name: str, status: int) -> Behaviour:
        def behave(call: Call) -> Reply:
            seen.append(name)
            return Reply(status=status)

        return behave

    for fallback in ("never", "safe-methods", "idempotent"):
        with driver.serve(everyone(fallback=fallback), {"v1": counts("one", 200), "v2": counts("two", 500)}) as client:
            assert client("POST", headers={USER: "u"}, body=b"x").status == 500

    assert seen == ["two"] * 3


@pytest.mark.parametrize("size", [5, 70_000, 300_000])
def test_an_idempotent_request_is_replayed_with_its_body(driver: Driver, size: int) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]

    with driver.serve(
        everyone(fallback="idempotent"), {"v1": echoes("one"), "v2": lambda call: Reply(status=503, body=call.body)}
    ) as client:
        answer = client("PUT", headers={USER: "u"}, body=body)

    assert (answer.status, answer.body) == (200, b"one PUT " + body)


def test_a_body_over_the_cap_passes_the_failure_through(driver: Driver) -> None:
    canary = everyone(fallback="idempotent", body_cap=1000)

    with driver.serve(canary, {"v1": says("one"), "v2": says("two", 503)}) as client, recorded(canary) as ended:
        answer = client("PUT", headers={USER: "u"}, body=b"x" * 1001)

    assert (answer.status, answer.text) == (503, "two")
    assert [(o.fell_back, o.missed) for o in ended] == [(False, "body")]


def test_a_failing_stable_is_given_as_it_is(driver: Driver) -> None:
    canary = everyone()

    with driver.serve(canary, {"v1": says("one", 503), "v2": raises}) as client, recorded(canary) as ended:
        answer = client(headers={USER: "u"})

    assert (answer.status, answer.text) == (503, "one")
    assert len(ended) == 1


def test_head_falls_back_too(driver: Driver) -> None:
    with driver.serve(everyone(), {"v1": says(""), "v2": says("", 500)}) as client:
        answer = client("HEAD", headers={USER: "u"})

    assert (answer.status, answer.header("X-Canary-Fallback")) == (200, "1")


def test_ten_thousand_gets_see_no_failure(driver: Driver) -> None:
    canary = everyone()

    with driver.serve(canary, {"v1": says("one"), "v2": raises}) as client:
        statuses = {client(headers={USER: f"user-{n}"}).status for n in range(1_000)}

    assert statuses == {200}
    assert canary.metrics_summary()["canary"]["error_count"] == 1_000


def test_the_exception_behind_a_500_is_what_the_failure_is_called_by(driver: Driver) -> None:
    canary = everyone()

    with driver.serve(canary, {"v1": says("one"), "v2": raises}) as client, recorded(canary) as ended:
        client(headers={USER: "u"})

    assert [o.error_type for o in ended] == ["Broken"]
