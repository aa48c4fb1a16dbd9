"""What responses carry beside what the app set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from canary_middleware import anonymous, by_callable
from canary_middleware._core.exchange import Failure
from canary_middleware._core.headers import FALLBACK, end_of_life, extra, http_date, more_headers

from .heads import Head
from .test_door import door
from .test_rollout import plan, rollout


def vary(**fields: Any) -> tuple[str | None, bool]:
    found = extra(rollout(10, **fields), "v2")
    return dict(found.text).get("Vary"), found.wants_private


def test_the_version_is_named_and_can_be_left_out() -> None:
    assert dict(extra(rollout(10), "v2").text)["X-Canary-Version"] == "v2"
    assert extra(rollout(10), "v2").raw[0] == (b"x-canary-version", b"v2")
    assert dict(extra(rollout(10, version_header="X-Api"), "v1").text)["X-Api"] == "v1"
    assert extra(rollout(10, version_header=False), "v2").text == ()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (["header:x-user-id"], ("x-user-id", False)),
        (["header:x-user-id", "header:X-USER-ID", "cookie:a", "session"], ("x-user-id, Cookie", False)),
        (["query:user", "path:id"], (None, False)),
        (["client"], (None, True)),
        (["json:user_id"], (None, True)),
        ([by_callable(str)], (None, True)),
        ([anonymous()], ("Cookie", False)),
        (["user"], ("Cookie, Authorization", False)),
        (["cookie:a", "user"], ("Cookie, Authorization", False)),
    ],
)
def test_caches_are_told_what_the_version_depends_on(key: list[Any], expected: tuple[str | None, bool]) -> None:
    assert vary(key=key) == expected


def test_segments_count_too() -> None:
    by_header = [{"name": "eu", "when": {"header": "X-Region", "in": ["eu"]}, "weight": 5}]
    by_attribute = [{"name": "eu", "when": {"region": "eu"}, "weight": 5}]
    by_identity = [{"name": "qa", "when": {"identity": ["q"]}, "version": "v2"}]

    assert vary(segments=by_header) == ("x-region", False)
    assert vary(segments=by_attribute) == (None, True)
    assert vary(segments=by_identity) == (None, False)


def test_where_everyone_gets_one_version_nothing_varies() -> None:
    off = {"key": ["header:x-user-id"], "overrides": {"header": False}}

    assert dict(extra(rollout(0, **off), "v1").text).get("Vary") is None
    assert dict(extra(rollout(10, **off), "v1").text).get("Vary") == "x-user-id"
    assert dict(extra(rollout(10, cache_headers=False, **off), "v1").text).get("Vary") is None


def test_an_override_by_cookie_alone_makes_answers_differ_too() -> None:
    by_cookie = {"key": ["header:x-user-id"], "overrides": {"header": False, "cookie": "canary"}}

    assert dict(extra(rollout(0, **by_cookie), "v1").text).get("Vary") == "x-user-id"


END = {
    "deprecation": "2026-01-01T00:00:00Z",
    "sunset": "2026-07-01T02:00:00+02:00",
    "deprecation_link": "https://a.example/why",
    "sunset_link": "https://a.example/when",
    "successor": "https://a.example/v2",
}


def test_stable_says_that_it_is_superseded_once_the_rollout_is_completed() -> None:
    done = rollout(100, state={"phase": "completed"}, end_of_life=END)
    headers = dict(extra(done, "v1").text)

    assert headers["Deprecation"] == "@1767225600"
    assert headers["Sunset"] == "Wed, 01 Jul 2026 00:00:00 GMT"
    assert headers["Link"] == (
        '<https://a.example/why>; rel="deprecation", <https://a.example/when>; rel="sunset", '
        '<https://a.example/v2>; rel="successor-version"'
    )
    assert "Deprecation" not in dict(extra(done, "v2").text)
    assert "Deprecation" not in dict(extra(rollout(50, end_of_life=END), "v1").text)


def test_what_the_plan_leaves_out_is_not_said() -> None:
    assert end_of_life(plan()) == []
    assert end_of_life(plan(end_of_life={"successor": "/v2"})) == [("Link", '</v2>; rel="successor-version"')]
    assert end_of_life(plan(end_of_life={"sunset": "2026-07-01T00:00:00Z"})) == [
        ("Sunset", "Wed, 01 Jul 2026 00:00:00 GMT")
    ]


def test_dates_are_written_in_utc() -> None:
    assert http_date(datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(datetime(1994, 11, 6, 0, 49, 37, tzinfo=timezone(timedelta(hours=-8)))) == (
        "Sun, 06 Nov 1994 08:49:37 GMT"
    )


@pytest.mark.parametrize(
    ("method", "cache_control", "expected"),
    [
        ("GET", [], True),
        ("HEAD", ["max-age=60"], True),
        ("POST", [], False),
        ("GET", ["private"], False),
        ("GET", ["no-store"], False),
        ("GET", ["public, Private"], False),
        ("GET", ['public, private="Set-Cookie"'], True),
    ],
)
def test_private_is_appended_where_no_vary_can_help(method: str, cache_control: list[str], expected: bool) -> None:
    entered = door(10, key=["client"])
    exchange = Head(method=method).exchange(entered.decide(Head()), entered, 0.0)

    assert (("Cache-Control", "private") in more_headers(exchange, cache_control)) == expected


def test_an_answer_that_stable_gave_for_the_canary_says_so() -> None:
    entered = door(10, key=["header:u"])
    exchange = Head().exchange(entered.decide(Head(headers={"u": "user"})), entered, 0.0)

    assert FALLBACK not in more_headers(exchange, [])
    exchange.fall_back(Failure(500, "ValueError"))
    assert FALLBACK in more_headers(exchange, [])
    assert ("X-Canary-Version", "v1") in more_headers(exchange, [])


def test_an_answer_of_stable_for_the_canary_says_so() -> None:
    entered = door(100, key=["header:u"])
    exchange = Head().exchange(entered.decide(Head(headers={"u": "user"})), entered, 0.0)
    exchange.fall_back(Failure(500, "500"))

    assert more_headers(exchange, [])[:1] == [("X-Canary-Version", "v1")]
    assert ("X-Canary-Fallback", "1") in more_headers(exchange, [])


@pytest.mark.parametrize("cache_headers", [True, False])
def test_a_response_that_sets_our_cookie_is_private(cache_headers: bool) -> None:
    entered = door(10, key=[anonymous()], cache_headers=cache_headers)
    exchange = Head(method="POST").exchange(entered.decide(Head()), entered, 0.0)
    exchange.new_id = "abc"
    headers = dict(more_headers(exchange, []))

    assert headers["Set-Cookie"].startswith("canary_id=abc;")
    assert ("Cache-Control" in headers) == cache_headers
