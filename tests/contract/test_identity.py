"""Who asks is read alike behind every front door: the same request gives the same identity, byte for byte."""

from __future__ import annotations

import json
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, anonymous, by_cookie, by_header, by_json, by_path, by_query, current
from canary_middleware._core.assignment.identity import by_callable, by_client
from canary_middleware.errors import ConfigError

from .behaviour import Answer, Call, Reply, echoes

if TYPE_CHECKING:
    from .drivers import Client, Driver

JSON = ("content-type", "application/json")
CHUNKED = ("transfer-encoding", "chunked")


def make(*key: Any, **fields: Any) -> Canary:
    """A Canary at 50 % by *key*."""
    return Canary("checkout", **{"weight": 50, "key": list(key), "environ": {}, **fields})


def tells(call: Call) -> Reply:
    """Says whom the request was taken for, by the bucket, and what body the app has read."""
    served = current()
    return Reply(body=f"{served.version} {served.reason} {served.bucket} ".encode() + call.body)


BOTH = {"v1": tells, "v2": tells}


def told(canary: Canary, identity: str | None, body: str = "") -> str:
    """What ``tells`` says of a request of *identity*."""
    if identity is None:
        return f"v1 no_identity None {body}"
    return f"{canary.version_for(identity)} weight {canary.explain(identity)['bucket']} {body}"


def reads_chunks(driver: Driver) -> bool:
    """Django's WSGI handler takes a body without a length for an empty one."""
    return driver.name != "django-sync"


# -- header, cookie, query, path -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "identity"),
    [
        ({"X-User-Id": "user-1"}, "user-1"),
        ({"x-USER-id": "user-1"}, "user-1"),
        ({"x-user-id": "zoë 漢字"}, "zoë 漢字"),
        ({"x-user-id": "caf\udce9"}, "café"),  # Latin-1 on the wire
        ({"x-user-id": "a,b;c=d\\"}, "a,b;c=d\\"),
        ({"x-user-id": ""}, None),
        ({"x-user-id-2": "user-1"}, None),
        ([("x-user-id", "user-1"), ("x-user-id", "user-2")], "user-1,user-2"),
        ({}, None),
    ],
)
def test_a_header_is_read_as_it_was_sent(driver: Driver, headers: Any, identity: str | None) -> None:
    canary = make(by_header("X-User-Id"))

    with driver.serve(canary, BOTH) as client:
        assert client(headers=headers).text == told(canary, identity)


@pytest.mark.parametrize(
    ("cookies", "identity"),
    [
        (["uid=user-1"], "user-1"),
        (["a=b; uid=user-1; c=d"], "user-1"),
        (["a=b;uid=user-1"], "user-1"),
        (["xuid=no; uid=user-1"], "user-1"),
        (["uid=user-1; uid=user-2"], "user-1"),
        (['uid="user-1"'], "user-1"),
        (["uid=a=b=="], "a=b=="),
        (["uid=zoë"], "zoë"),
        (["uid=caf\udce9"], "café"),
        (["a=b", "uid=user-1"], "user-1"),
        (["uid="], None),
        (["uid"], None),
        (["UID=user-1"], None),
        ([], None),
    ],
)
def test_a_cookie_is_read_as_it_was_sent(driver: Driver, cookies: list[str], identity: str | None) -> None:
    canary = make(by_cookie("uid"))

    with driver.serve(canary, BOTH) as client:
        assert client(headers=[("cookie", value) for value in cookies]).text == told(canary, identity)


@pytest.mark.parametrize(
    ("query", "identity"),
    [
        ("uid=user-1", "user-1"),
        ("a=b&uid=user-1&c", "user-1"),
        ("uid=user+1", "user 1"),
        ("uid=user%2B1%26", "user+1&"),
        ("uid=zo%C3%AB", "zoë"),
        ("%75id=user-1", "user-1"),
        ("uid=user-1&uid=user-2", "user-1"),
        ("uid=a=b", "a=b"),
        ("xuid=user-1", None),
        ("uid=%zz", "%zz"),
        ("uid=", None),
        ("uid", None),
        ("", None),
    ],
)
def test_a_query_parameter_is_decoded(driver: Driver, query: str, identity: str | None) -> None:
    canary = make(by_query("uid"))

    with driver.serve(canary, BOTH) as client:
        assert client(target=f"/x?{query}").text == told(canary, identity)


def test_a_query_in_raw_utf_8_is_read_as_text(driver: Driver) -> None:
    canary = make(by_query("uid"))

    with driver.serve(canary, BOTH) as client:
        for identity in ("zoë", "Ã©"):
            assert client(target=f"/x?uid={identity}").text == told(canary, identity)


@pytest.mark.parametrize(
    ("target", "identity"),
    [
        ("/talks/s-1/turn", "s-1"),
        ("/talks/s%201/turn?session=no", "s 1"),
        ("/talks/zo%C3%AB/turn", "zoë"),
        ("/talks/a+b/turn", "a+b"),
    ],
)
def test_a_path_parameter_is_that_of_the_endpoint_template(driver: Driver, target: str, identity: str) -> None:
    canary = make(by_path("session"), endpoints=["GET /talks/{session}/turn", "GET /talks"])

    with driver.serve(canary, BOTH) as client:
        assert client(target=target).text == told(canary, identity)
        assert client(target="/talks").text == told(canary, None)


# -- JSON ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "document", "identity"),
    [
        ("user_id", {"user_id": "user-1"}, "user-1"),
        ("user.id", {"user": {"id": 7}}, "7"),
        ("items.1.id", {"items": [{"id": "a"}, {"id": "b"}]}, "b"),
        ("user_id", {"user_id": "zoë"}, "zoë"),
        ("user_id", {"user_id": "\ud800"}, "\ud800"),
        ("user_id", {"user_id": True}, None),
        ("user_id", {"user_id": 1.5}, None),
        ("user_id", {"user_id": None}, None),
        ("user_id", {"user_id": ""}, None),
        ("user_id", {"user_id": {"id": 1}}, None),
        ("user.id", {"user": "x"}, None),
        ("items.9.id", {"items": []}, None),
        ("user_id", ["user_id"], None),
        ("user_id", "user_id", None),
    ],
)
def test_a_json_field_is_found_by_its_dotted_path_and_the_app_reads_the_same_body(
    driver: Driver, field: str, document: Any, identity: str | None
) -> None:
    canary = make(by_json(field))
    body = json.dumps(document)

    with driver.serve(canary, BOTH) as client:
        assert client("POST", headers=[JSON], body=body.encode()).text == told(canary, identity, body)


@pytest.mark.parametrize(
    ("content_type", "is_read"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/vnd.api+json", True),
        ("text/plain", False),
        ("application/jsonlines", False),
        ("text/json+plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=application/json", False),
        ("", False),
    ],
)
def test_only_json_is_looked_into(driver: Driver, content_type: str, is_read: bool) -> None:
    canary = make(by_json("user_id"))
    body = '{"user_id": "user-1"}'

    with driver.serve(canary, BOTH) as client:
        answer = client("POST", headers=[("content-type", content_type)], body=body.encode())

    assert answer.text == told(canary, "user-1" if is_read else None, body)


def test_a_body_is_read_on_the_endpoints_that_ask_for_it_and_nowhere_else(driver: Driver) -> None:
    read_at_decision: list[int] = []
    taken: list[int] = []

    def look(_: object) -> None:
        read_at_decision.append(sum(taken))

    canary = Canary.load(
        {
            "schema": 1,
            "rollout": {
                "turns": {"endpoints": ["POST /turn"], "weight": 50, "key": [by_json("user_id"), look]},
                "rest": {"weight": 50, "key": [by_header("x-user-id"), look]},
            },
        },
        environ={},
    )
    body = b'{"user_id": "user-1"}'

    with driver.serve(canary, BOTH) as client:
        client("POST", "/turn", headers=[JSON], body=body.replace(b"user_id", b"_"), taken=taken)
        taken.clear()
        client("POST", "/other", headers=[JSON], body=body, taken=taken)
        taken.clear()
        client("POST", "/turn", headers=[("content-type", "text/plain")], body=body, taken=taken)

    if driver.name == "django-async":  # Django itself takes the whole body off the server before any middleware runs
        return
    assert read_at_decision == [len(body) - 6, 0, 0]


@pytest.mark.parametrize("over", [0, 1])
def test_a_body_over_the_cap_is_not_looked_into_and_reaches_the_app(driver: Driver, over: int) -> None:
    canary = make(by_json("user_id"), json_cap=1000)
    body = json.dumps({"user_id": "user-1", "more": "x" * 5000})[: 1000 + over - 2].ljust(1000 + over - 2) + '"}'

    with driver.serve(canary, BOTH) as client:
        with_length = client("POST", headers=[JSON], body=body.encode())
        without = client("POST", headers=[JSON, CHUNKED], body=body.encode())

    assert with_length.text == told(canary, None if over else "user-1", body)
    if reads_chunks(driver):
        assert without.text == told(canary, None if over else "user-1", body)


def test_of_an_endless_upload_no_more_than_the_cap_is_held(driver: Driver) -> None:
    read_at_decision: list[int] = []
    taken: list[int] = []

    def look(_: object) -> None:
        read_at_decision.append(sum(taken))

    canary = make(by_json("user_id"), look, json_cap=1000)
    body = b'{"user_id": "' + b"x" * 100_000
    options: dict[str, Any] = {"chunk_size": 300} if driver.is_async else {}

    with driver.serve(canary, {"v1": echoes("one"), "v2": echoes("two")}) as client:
        answer = client("POST", headers=[JSON, CHUNKED], body=body, taken=taken, **options)

    if reads_chunks(driver):
        assert answer.body == b"one POST " + body
    if driver.name != "django-async":
        assert read_at_decision[0] <= 1200


def test_a_body_in_small_pieces_is_one_body(driver: Driver) -> None:
    canary = make(by_json("user_id"))
    body = '{"user_id": "user-1", "text": "' + "é" * 500 + '"}'
    options: dict[str, Any] = {"chunk_size": 7} if driver.is_async else {}

    with driver.serve(canary, BOTH) as client:
        answer = client("POST", headers=[JSON], body=body.encode(), **options)

    assert answer.text == told(canary, "user-1", body)


def test_a_body_that_was_read_for_its_identity_is_played_again_for_stable(driver: Driver) -> None:
    canary = make(by_json("user_id"), weight=100, fallback="idempotent")
    body = b'{"user_id": "user-1"}'

    with driver.serve(canary, {"v1": echoes("one"), "v2": lambda call: Reply(status=503, body=call.body)}) as client:
        answer = client("PUT", headers=[JSON], body=body)

    assert (answer.status, answer.body) == (200, b"one PUT " + body)


# -- callable --------------------------------------------------------------------------------------------------


def _tenant(native: Any) -> object:
    """Works on every framework's own request: HttpRequest, Request, scope, environ."""
    if hasattr(native, "META"):
        return native.META["HTTP_X_TENANT"]
    if hasattr(native, "headers"):
        return native.headers["x-tenant"]
    if "headers" in native:
        return dict(native["headers"])[b"x-tenant"].decode()
    return native["HTTP_X_TENANT"]


def test_a_function_gets_the_frameworks_own_request(driver: Driver) -> None:
    canary = make(_tenant)

    with driver.serve(canary, BOTH) as client:
        assert client(headers={"x-tenant": "acme"}).text == told(canary, "acme")

    assert canary.internal_errors() == {}


@pytest.mark.parametrize(("value", "identity"), [(7, "7"), ("", None), (None, None), (0, "0")])
def test_what_a_function_gives_is_taken_as_text(driver: Driver, value: object, identity: str | None) -> None:
    canary = make(by_callable(lambda _: value))

    with driver.serve(canary, BOTH) as client:
        assert client().text == told(canary, identity)


def test_a_function_that_raises_counts_as_absent_and_is_counted_once_per_request(driver: Driver) -> None:
    def broken(_: object) -> str:
        raise KeyError("x-tenant")

    canary = make(broken, by_json("user_id"), by_header("x-user-id"))

    with driver.serve(canary, BOTH) as client:
        assert client(headers={"x-user-id": "user-1"}).text == told(canary, "user-1")
        assert canary.internal_errors() == {("identity", "KeyError"): 1}

        body = '{"user_id": "user-2"}'
        assert client("POST", headers=[JSON], body=body.encode()).text == told(canary, "user-2", body)
        assert canary.internal_errors() == {("identity", "KeyError"): 2}


def test_a_function_that_reads_the_body_does_not_take_it_from_the_app(driver: Driver) -> None:
    def greedy(native: Any) -> str | None:
        if hasattr(native, "get_json"):
            return str(native.get_json()["user_id"])
        return None

    canary = make(greedy)
    body = '{"user_id": "user-1"}'

    with driver.serve(canary, BOTH) as client:
        assert client("POST", headers=[JSON], body=body.encode()).text == told(canary, None, body)


def test_an_async_function_is_refused_at_start() -> None:
    async def slow(_: object) -> str:
        return ""

    with pytest.raises(ConfigError, match="must be a plain def"):
        make(slow)


# -- client address --------------------------------------------------------------------------------------------

PROXIES = ["10.0.0.0/8", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "identity"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.2.3.4"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.2.3.4"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.7"], "10.0.0.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [" , ,"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8::1", ["2001:470::1"], "2001:470::1"),
        ("10.0.0.1", ["unknown"], "unknown"),
        ("10.0.0.1", ["203.0.113.7:5123"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:470::1]:443, 10.2.3.4:80"], "2001:470::1"),
    ],
)
def test_forwarded_addresses_are_believed_from_trusted_proxies_only(
    driver: Driver, peer: str, forwarded: list[str], identity: str
) -> None:
    canary = make(by_client(PROXIES))

    with driver.serve(canary, BOTH) as client:
        answer = client(headers=[("x-forwarded-for", value) for value in forwarded], peer=peer)

    assert answer.text == told(canary, identity)


def test_the_plans_proxies_are_those_of_its_client_source(driver: Driver) -> None:
    plan = {"schema": 1, "trusted_proxies": PROXIES, "rollout": {"checkout": {"weight": 50, "key": ["client"]}}}
    canary = Canary.load(plan, environ={})

    with driver.serve(canary, BOTH) as client:
        answer = client(headers={"x-forwarded-for": "198.51.100.1"}, peer="10.0.0.1")

    assert answer.text == told(canary, "198.51.100.1")


def test_without_proxies_forwarded_addresses_are_nobodys_word(driver: Driver) -> None:
    canary = make(by_client())

    with driver.serve(canary, BOTH) as client:
        assert client(headers={"x-forwarded-for": "1.1.1.1"}).text == told(canary, "203.0.113.9")


# -- anonymous -------------------------------------------------------------------------------------------------


def _set(answer: Answer, name: str = "canary_id") -> Any:
    """The cookie called *name* that the answer sets, or None."""
    jar = SimpleCookie()
    for key, value in answer.headers:
        if key.lower() == "set-cookie":
            jar.load(value)
    return jar.get(name)


def test_a_visitor_gets_one_cookie_and_keeps_its_version(driver: Driver) -> None:
    canary = make(anonymous())

    with driver.serve(canary, BOTH) as client:
        first = client()
        cookie = _set(first)
        again = client(headers={"cookie": f"canary_id={cookie.value}"})

    assert len(cookie.value) == 32
    assert first.text == again.text == told(canary, cookie.value)
    assert _set(again) is None
    assert first.header("Cache-Control") == "private"


def test_the_cookie_has_the_attributes_that_keep_it_safe_by_default(driver: Driver) -> None:
    with driver.serve(make(anonymous()), BOTH) as client:
        cookie = _set(client())

    assert {name: value for name, value in cookie.items() if value} == {
        "max-age": str(365 * 24 * 3600),
        "path": "/",
        "secure": True,
        "httponly": True,
        "samesite": "Lax",
    }


def test_the_cookies_attributes_can_be_chosen(driver: Driver) -> None:
    source = anonymous(
        "visitor", max_age_s=60, path="/shop", domain="example.org", secure=False, httponly=False, same_site="Strict"
    )

    with driver.serve(make(source), BOTH) as client:
        cookie = _set(client(), "visitor")

    assert {name: value for name, value in cookie.items() if value} == {
        "max-age": "60",
        "path": "/shop",
        "domain": "example.org",
        "samesite": "Strict",
    }


def test_a_signed_cookie_is_believed_and_a_forged_one_replaced(driver: Driver) -> None:
    canary = make(anonymous(secret="s3cret"))

    with driver.serve(canary, BOTH) as client:
        cookie = _set(client())
        identity, _, signature = cookie.value.partition(".")
        assert client(headers={"cookie": f"canary_id={cookie.value}"}).text == told(canary, identity)
        for forged in (identity, f"chosen.{signature}", f"{identity}.", f"{identity}.ü", f".{signature}", "."):
            answer = client(headers={"cookie": f"canary_id={forged}"})
            fresh = _set(answer).value
            assert fresh.partition(".")[0] != identity
            assert answer.text == told(canary, fresh.partition(".")[0])


def test_one_cookie_serves_all_rollouts(driver: Driver) -> None:
    canary = Canary.load(
        {
            "schema": 1,
            "rollout": {
                "a": {"endpoints": ["/a"], "weight": 50, "key": ["anonymous"]},
                "b": {"endpoints": ["/b"], "weight": 50, "key": ["anonymous"]},
            },
        },
        environ={"CANARY_COOKIE_SECRET": "s3cret"},
    )

    with driver.serve(canary, BOTH) as client:
        cookie = _set(client(target="/a"))
        second = client(target="/b", headers={"cookie": f"canary_id={cookie.value}"})

    bucket = canary.explain(cookie.value.partition(".")[0], rollout="b")["bucket"]
    assert _set(second) is None
    assert second.text.split()[1:] == ["weight", str(bucket)]


def test_an_answer_of_stable_in_the_canarys_stead_sets_the_cookie_too(driver: Driver) -> None:
    canary = make(anonymous(), weight=100)

    with driver.serve(canary, {"v1": echoes("one"), "v2": lambda call: Reply(status=500)}) as client:
        answer = client()

    assert (answer.text, answer.header("X-Canary-Fallback")) == ("one GET ", "1")
    assert _set(answer) is not None


def test_cookies_of_the_app_stay_beside_ours(driver: Driver) -> None:
    def sets(call: Call) -> Reply:
        return Reply(headers=(("Content-Type", "text/plain"), ("Set-Cookie", "theirs=1")))

    with driver.serve(make(anonymous()), {"v1": sets, "v2": sets}) as client:
        answer = client()

    assert _set(answer, "theirs").value == "1"
    assert _set(answer) is not None


# -- order -----------------------------------------------------------------------------------------------------


def test_the_first_source_that_yields_a_value_wins(driver: Driver) -> None:
    canary = make(by_header("x-user-id"), by_cookie("uid"), by_query("uid"), by_json("uid"), anonymous())
    body = '{"uid": "json"}'

    def ask(client: Client, **given: Any) -> Answer:
        return client("POST", headers=[JSON, *given.get("headers", ())], target=given.get("target", "/"), body=b"{}")

    with driver.serve(canary, BOTH) as client:
        everything = [("x-user-id", "header"), ("cookie", "uid=cookie; canary_id=anonymous")]
        assert ask(client, headers=everything, target="/?uid=query").text == told(canary, "header", "{}")
        assert ask(client, headers=everything[1:], target="/?uid=query").text == told(canary, "cookie", "{}")
        assert ask(client, target="/?uid=query").text == told(canary, "query", "{}")
        assert client("POST", headers=[JSON], body=body.encode()).text == told(canary, "json", body)
        assert ask(client, headers=[("cookie", "canary_id=anonymous")]).text == told(canary, "anonymous", "{}")
        assert _set(ask(client, target="/?uid=query")) is None
        assert _set(ask(client)) is not None


@pytest.mark.parametrize(("letter", "width"), [("x", 1), ("é", 2), ("漢", 3)])
def test_an_identity_may_have_4096_bytes_and_not_one_more(driver: Driver, letter: str, width: int) -> None:
    longest = letter * (4096 // width) + "x" * (4096 % width)
    canary = make(by_header("x-user-id"))

    with driver.serve(canary, BOTH) as client:
        assert client(headers={"x-user-id": longest}).text == told(canary, longest)
        assert client(headers={"x-user-id": longest + "x"}).text == told(canary, None)


# -- segments and lists ----------------------------------------------------------------------------------------


def _country(native: Any) -> dict[str, str]:
    return {"country": str(_tenant(native)), "region": "eu"}


SEGMENTS = [
    {"name": "staff", "when": {"identity": ["amy", "bob"]}, "version": "v2"},
    {"name": "beta", "when": {"header": "x-beta", "in": ["yes", "zoë"]}, "weight": 100},
    {"name": "swiss", "when": {"attribute": "country", "in": ["ch"]}, "version": "v2"},
    {"name": "eu", "when": {"region": ["eu"]}, "weight": 0},
]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-user-id": "amy", "x-tenant": "de"}, "v2 segment"),
        ({"x-user-id": "eve", "x-beta": "yes", "x-tenant": "de"}, "v2 segment"),
        ({"x-user-id": "eve", "x-beta": "zoë", "x-tenant": "de"}, "v2 segment"),
        ({"x-user-id": "eve", "x-beta": "no", "x-tenant": "ch"}, "v2 segment"),
        ({"x-tenant": "ch"}, "v2 segment"),
        ({"x-user-id": "eve", "x-tenant": "de"}, "v1 segment"),
        ({"x-tenant": "de"}, "v1 no_identity"),
    ],
)
def test_the_first_segment_that_matches_wins(driver: Driver, headers: dict[str, str], expected: str) -> None:
    canary = make(by_header("x-user-id"), weight=100, segments=SEGMENTS, attributes=_country)

    with driver.serve(canary, BOTH) as client:
        assert client(headers=headers).text.rsplit(" ", 2)[0] == expected


def test_attributes_that_fail_match_nothing_and_the_region_is_the_processs_own(driver: Driver) -> None:
    canary = make(
        by_header("x-user-id"), segments=SEGMENTS[2:], attributes=_country, environ={"CANARY_REGION": "eu"}, weight=100
    )

    with driver.serve(canary, BOTH) as client:
        assert client(headers={"x-user-id": "eve"}).text.startswith("v1 segment")

    assert canary.internal_errors() == {("attributes", "KeyError"): 1}


def test_a_list_of_users_stands_above_segments_and_weight(driver: Driver) -> None:
    canary = make(
        by_header("x-user-id"), weight=0, segments=SEGMENTS[:1], overrides={"users": {"v1": ["amy"], "v2": ["qa-1"]}}
    )

    with driver.serve(canary, BOTH) as client:
        assert client(headers={"x-user-id": "qa-1"}).text.startswith("v2 user ")
        assert client(headers={"x-user-id": "amy"}).text.startswith("v1 user ")
        assert client(headers={"x-user-id": "bob"}).text.startswith("v2 segment ")
        assert client(headers={"x-user-id": "qa-2"}).text.startswith("v1 weight ")
