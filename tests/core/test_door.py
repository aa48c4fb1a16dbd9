"""One rollout at its door: who asks, what is forced, and what happens when something fails."""

from __future__ import annotations

from typing import Any

import pytest

from canary_middleware import anonymous, by_callable
from canary_middleware._core.assignment.override import OverrideReader
from canary_middleware._core.assignment.policy import Door
from canary_middleware._core.lifecycle.rollout import Router, Variants
from canary_middleware._core.ports import BodyNotRead

from .heads import Head
from .test_rollout import rollout

complaints: list[tuple[str, str]] = []


def door(
    weight: float = 100,
    /,
    *,
    state: dict[str, Any] | None = None,
    override: OverrideReader | None = None,
    **fields: Any,
) -> Door:
    complaints.clear()
    router = Router(rollout(weight, state=state, **fields), Variants(), {})
    return Door(
        router,
        router.plan.key,
        override,
        lambda: "minted",
        lambda: 1_700_000_000.0,
        lambda component, error, _: complaints.append((component, str(error))),
        lambda exchange: None,
    )


def test_the_first_source_that_yields_a_value_wins() -> None:
    entered = door(key=["header:x-user-id", "cookie:session"])

    def bucket(head: Head) -> int | None:
        return entered.decide(head).bucket

    by_cookie = bucket(Head(cookies={"session": "c"}))
    assert bucket(Head(headers={"x-user-id": "h"}, cookies={"session": "c"})) == bucket(
        Head(headers={"x-user-id": "h"})
    )
    assert bucket(Head(headers={"x-user-id": ""}, cookies={"session": "c"})) == by_cookie
    assert bucket(Head(headers={"x-user-id": "x" * 5_000}, cookies={"session": "c"})) == by_cookie
    assert entered.decide(Head()).reason == "no_identity"


def test_an_identity_of_many_bytes_is_measured_before_it_is_used() -> None:
    entered = door(key=["header:x-user-id"])

    assert entered.decide(Head(headers={"x-user-id": "é" * 2_000})).reason == "weight"
    assert entered.decide(Head(headers={"x-user-id": "é" * 2_100})).reason == "no_identity"


def test_a_source_that_raises_counts_as_absent_and_is_reported() -> None:
    def broken(native: object) -> str:
        raise RuntimeError("no database")

    entered = door(key=[by_callable(broken), "header:x-user-id"])

    assert entered.decide(Head(headers={"x-user-id": "u"})).reason == "weight"
    assert complaints == [("identity", "no database")]


def test_a_body_that_is_not_read_yet_is_asked_for() -> None:
    with pytest.raises(BodyNotRead) as asked:
        door(key=["json:user_id"]).decide(Head(is_body_read=False))

    assert asked.value.cap == 64 * 1024


def test_an_anonymous_visitor_gets_an_id_only_where_nothing_else_says_who_asks() -> None:
    entered = door(key=["header:x-user-id", anonymous()])
    known, unknown = Head(headers={"x-user-id": "u"}), Head()

    assert entered.decide(known).reason == entered.decide(unknown).reason == "weight"
    assert (known.new_id, unknown.new_id) == (None, "minted")


def test_what_is_settled_asks_nobody() -> None:
    entered = door(key=[anonymous()], state={"phase": "rolled_back"})
    head = Head()

    assert entered.decide(head).reason == "rolled_back"
    assert head.new_id is None


def test_a_forced_version_stands_above_everything() -> None:
    locked = door(0, state={"phase": "locked"})

    assert locked.forced("v2").decide(Head()).version == "v2"
    assert locked.decide(Head()).version == "v1"


def test_an_override_is_read_before_the_identity() -> None:
    entered = door(0, key=["header:x-user-id"], override=OverrideReader("X-Canary", None, "t"))
    asked = {"x-canary": "v2", "x-canary-token": "t", "x-user-id": "u"}

    assert entered.decide(Head(headers=asked)).reason == "override"
    assert entered.decide(Head(headers={**asked, "x-canary": "v9"})).reason == "weight"
    assert entered.decide(Head(headers={"x-user-id": "u"})).reason == "weight"
    assert complaints == []
    assert entered.decide(Head(headers={**asked, "x-canary-token": "wrong"})).reason == "weight"
    assert complaints == [("override", "the token is missing or wrong")]


@pytest.mark.parametrize(
    ("fallback", "retired", "methods"),
    [
        ("never", False, set()),
        ("safe-methods", False, {"GET", "HEAD", "OPTIONS", "TRACE"}),
        ("idempotent", False, {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}),
        ("idempotent", True, set()),
    ],
)
def test_the_methods_that_fall_back_are_those_of_rfc_9110(fallback: str, retired: bool, methods: set[str]) -> None:
    assert door(fallback=fallback, state={"stable_enabled": not retired}).fallback_methods == methods


def test_a_request_pinned_to_a_retired_version_is_gone() -> None:
    gone = door(state={"stable_enabled": False}, key=["header:u"], overrides={"users": {"v1": ["old"]}})

    assert gone.is_gone(gone.decide(Head(headers={"u": "old"})))
    assert not gone.is_gone(gone.decide(Head(headers={"u": "new"})))
    assert not gone.is_gone(gone.error)
    assert gone.gone_headers == []


def test_the_headers_of_a_version_are_made_once() -> None:
    entered = door()

    variant = entered.router.variant("v2", "weight")

    assert entered.extras[variant] is entered.extras[variant]
    assert not entered.extras[variant].wants_private
    assert entered.extras[entered.router.variant("v2", "override")].wants_private


def test_a_decision_that_waited_for_the_body_goes_on_where_it_left_off() -> None:
    asked: list[str] = []

    def broken(native: object) -> str:
        asked.append("function")
        raise RuntimeError("no database")

    entered = door(0, key=[by_callable(broken), "json:user_id"], override=OverrideReader("X-Canary", None, "t"))
    headers = {"x-canary": "v2"}
    with pytest.raises(BodyNotRead) as wanted:
        entered.decide(Head(headers=headers, is_body_read=False))
    head = Head(headers=headers, body=b'{"user_id": "u"}')
    head.resume = wanted.value

    assert entered.decide(head).reason == "weight"
    assert asked == ["function"]
    assert [component for component, _ in complaints] == ["override", "identity"]
