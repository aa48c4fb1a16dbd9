"""Whatever a client sends, the answer is what the app alone would have given, at a cost that only its length sets."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_cookie, by_header, by_json, by_query, by_session, by_user
from canary_middleware._core.assignment.identity import Anonymous, by_client
from canary_middleware.testing import recorded

from .behaviour import echoes

if TYPE_CHECKING:
    from collections.abc import Callable

    from .behaviour import Answer
    from .drivers import Client, Driver

MB = 1_000_000
JSON = ("content-type", "application/json")
CHUNKED = ("transfer-encoding", "chunked")
APP = echoes("app")


def make(**fields: Any) -> Canary:
    """A Canary that looks everywhere and shows itself nowhere."""
    key = [
        by_header("x-user-id"),
        by_cookie("uid"),
        by_query("uid"),
        by_json("user.id"),
        by_session("uid"),
        by_user(),
        by_client(["10.0.0.0/8"]),
    ]
    given = {"weight": 50, "key": key, "version_header": False, "cache_headers": False, "fallback": "never", **fields}
    return Canary("checkout", environ={}, **given)


def _posted(body: bytes, *headers: tuple[str, str], **options: Any) -> dict[str, Any]:
    return {"method": "POST", "headers": [JSON, *headers], "body": body, **options}


def _got(*headers: tuple[str, str], **options: Any) -> dict[str, Any]:
    return {"headers": list(headers), **options}


REQUESTS: dict[str, dict[str, Any]] = {
    "nothing": _got(),
    "empty header": _got(("x-user-id", "")),
    "blank header": _got(("x-user-id", "   ")),
    "header of 1 MB": _got(("x-user-id", "u" * MB)),
    "header of 1 MB of wide letters": _got(("x-user-id", "漢" * (MB // 3))),
    "header in no encoding": _got(("x-user-id", "\udcff\udcfe\udc80")),
    "header with control characters": _got(("x-user-id", "a\x01b\x7f")),
    "5000 headers of one name": _got(*[("x-user-id", "u")] * 5000),
    "empty cookie": _got(("cookie", "")),
    "cookies of signs only": _got(("cookie", ";;;=;==; ;,")),
    "cookies without values": _got(("cookie", "uid; uid; uid")),
    "cookie with a lone quote": _got(("cookie", 'uid="')),
    "cookie with half a quote": _got(("cookie", 'uid="abc; x=y')),
    "cookies with forbidden letters": _got(("cookie", "a[]=\x01; {}=(); uid=u")),
    "cookies of one name": _got(("cookie", "uid=a; uid=b; uid=c")),
    "cookie in no encoding": _got(("cookie", "uid=\udcff\udc80")),
    "one cookie of 10 MB": _got(("cookie", "uid=" + "c" * 10 * MB)),
    "10 MB of almost that cookie": _got(("cookie", "xuid=" * (2 * MB))),
    "a query that is none": _got(target="/?&&&===&%&%%%&uid"),
    "a query with broken escapes": _got(target="/?uid=%ff%fe%zz%"),
    "a query of 1 MB": _got(target="/?uid=" + "q" * MB),
    "a query of 100,000 pairs": _got(target="/?" + "%75=1&" * 100_000),
    "a wide forwarded list": _got(("x-forwarded-for", "10.0.0.1," * 2000), peer="10.0.0.1"),
    "a forwarded name": _got(("x-forwarded-for", "<script>, ::::, 999.9.9.9"), peer="10.0.0.1"),
    "a peer that is no address": _got(peer="unix:/run/x.sock"),
    "JSON that is none": _posted(b"{user: 1}"),
    "JSON without an end": _posted(b'{"user": {"id": "amy"'),
    "JSON with more behind": _posted(b'{"user": {"id": "amy"}}{}'),
    "JSON in no encoding": _posted(b'{"user": {"id": "\xff\xfe"}}'),
    "JSON with a mark": _posted(b'\xef\xbb\xbf{"user": {"id": "amy"}}'),
    "JSON of a half letter": _posted(b'{"user": {"id": "\\ud800"}}'),
    "JSON in UTF-16": _posted('{"user": {"id": "amy"}}'.encode("utf-16")),
    "JSON of lists in lists": _posted(b"[" * 60_000),
    "JSON of objects in objects": _posted(b'{"user":' * 8_000 + b"1" + b"}" * 8_000),
    "JSON of one huge number": _posted(b'{"user": {"id": ' + b"9" * 60_000 + b"}}"),
    "JSON of an endless number": _posted(b'{"user": {"id": 1e999}}'),
    "JSON of not a number": _posted(b'{"user": {"id": NaN}}'),
    "JSON with a name twice": _posted(b'{"user": {"id": "a"}, "user": {"id": "b"}}'),
    "JSON of zero bytes": _posted(b"\x00" * 1000),
    "JSON with an identity of 60 kB": _posted(json.dumps({"user": {"id": "i" * 60_000}}).encode()),
    "JSON over the cap": _posted(json.dumps({"user": {"id": "amy"}, "x": "y" * 100_000}).encode()),
    "JSON over the cap without a length": _posted(b'{"user": {"id": "' + b"y" * 200_000, CHUNKED),
    "no JSON at all": _posted(b""),
    "JSON on GET": {**_posted(b'{"user": {"id": "amy"}}'), "method": "GET"},
    "a form that says JSON": _posted(b"user.id=amy&x=y"),
    "a body that ends early": _posted(b'{"user": {"id": "amy"}}', cut=True),
    "half a body": _posted(b'{"user": {"id": "a', cut=True),
    "half a body without a length": _posted(b'{"user": {"id": "a', CHUNKED, cut=True),
    "a length that is too short": _posted(b'{"user": {"id": "amy"}}', ("content-length", "5")),
    "a length of 0 with a body": _posted(b'{"user": {"id": "amy"}}', ("content-length", "0")),
    "a length that is a word": _posted(b'{"user": {"id": "amy"}}', ("content-length", "many")),
    "a negative length": _posted(b'{"user": {"id": "amy"}}', ("content-length", "-23")),
    "a length with a sign": _posted(b'{"user": {"id": "amy"}}', ("content-length", "+23")),
    "a length of 5000 digits": _posted(b'{"user": {"id": "amy"}}', ("content-length", "9" * 5000)),
    "a length of other digits": _posted(b'{"user": {"id": "amy"}}', ("content-length", "٢٣")),
    "two lengths": _posted(b'{"user": {"id": "amy"}}', ("content-length", "23"), ("content-length", "23")),
    "a broken session": _got(("cookie", "sessionid=:::::; session=.eJw.x.y")),
    "a path in no encoding": _got(target="/%ff%fe/%00"),
}


def _send(client: Client, driver: Driver, request: dict[str, Any]) -> Answer:
    # What the validator refuses, servers hand to apps all the same.
    return client(**request) if driver.is_async else client(**request, validate=False)


def _seen(answer: Answer) -> tuple[Any, ...]:
    # Django says itself that its session was read.
    headers = sorted(header for header in answer.headers if header != ("Vary", "Cookie"))
    return answer.status, headers, answer.body, type(answer.error)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_is_what_the_app_alone_gives(driver: Driver, name: str) -> None:
    canary = make()
    with driver.serve(None, {"v1": APP}) as client:
        alone = _send(client, driver, REQUESTS[name])

    with driver.serve(canary, {"v1": APP, "v2": APP}) as client, recorded(canary) as outcomes:
        answer = _send(client, driver, REQUESTS[name])

    assert _seen(answer) == _seen(alone)
    assert canary.internal_errors() == {}
    assert len(outcomes) == 1 or alone.status in (400, 500)


@pytest.mark.parametrize("name", ["half a body", "JSON over the cap", "JSON of lists in lists", "header of 1 MB"])
def test_the_same_where_stable_may_have_to_answer(driver: Driver, name: str) -> None:
    request = {**REQUESTS[name], "method": "PUT"}
    canary = make(weight=100, fallback="idempotent")
    with driver.serve(None, {"v1": APP}) as client:
        alone = _send(client, driver, request)

    with driver.serve(canary, {"v1": APP, "v2": APP}) as client:
        answer = _send(client, driver, request)

    assert _seen(answer) == _seen(alone)


@pytest.mark.parametrize("value", ["", "x" * 5000, "\udcff", ";;;", '"', "a.b", "."])
def test_a_cookie_of_ours_that_is_not_ours_costs_its_sender_only_a_new_one(driver: Driver, value: str) -> None:
    canary = make(key=[Anonymous(secret="s3cret")])

    with driver.serve(canary, {"v1": APP, "v2": APP}) as client:
        answer = client(headers={"cookie": f"canary_id={value}"})

    assert (answer.status, answer.text) == (200, "app GET ")
    assert "canary_id=" in (answer.header("Set-Cookie") or "")
    assert canary.internal_errors() == {}


def _effort(call: Callable[[], object]) -> int:
    """How many functions *call* calls, in Python and in C."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    return calls


SMALL_AND_LARGE: dict[str, Callable[[int], dict[str, Any]]] = {
    "header": lambda n: _got(("x-user-id", "u" * 10 * n)),
    "cookie": lambda n: _got(("cookie", "uid=" + "c" * 10 * n)),
    "almost that cookie": lambda n: _got(("cookie", "xuid= " * n)),
    "spaces": lambda n: _got(("cookie", "a=b;" + " " * 10 * n + "uid=")),
    "query": lambda n: _got(target="/?" + "%75=1&" * n),
    "json": lambda n: _posted(b'{"user": [' + b"1," * 10 * n),
    "over the cap": lambda n: _posted(b'{"user": {"id": "' + b"x" * 10_000 * n),
}


@pytest.mark.parametrize("name", SMALL_AND_LARGE)
def test_ten_times_the_input_is_no_more_than_ten_times_the_work(driver: Driver, name: str) -> None:
    canary = make()

    with driver.serve(canary, {"v1": APP, "v2": APP}) as client:
        _send(client, driver, _got())
        small, large = (
            _effort(lambda n=n: _send(client, driver, SMALL_AND_LARGE[name](n)))  # type: ignore[misc]
            for n in (200, 2000)
        )

    assert large <= 11 * small
