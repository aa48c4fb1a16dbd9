"""Where an identity is looked for, and what counts as one."""

from __future__ import annotations

import hmac
from typing import Any

import pytest

import canary_middleware as cm
from canary_middleware._core.assignment.endpoints import EndpointTable
from canary_middleware._core.assignment.identity import (
    MAX_IDENTITY_BYTES,
    Anonymous,
    Client,
    Custom,
    JsonField,
    identity_text,
    is_usable,
    parse_source,
)
from canary_middleware.errors import ConfigError

from .heads import Head


def test_each_source_reads_its_own_place() -> None:
    head = Head(
        headers={"x-user-id": "h"},
        cookies={"session": "c"},
        query={"user": "q"},
        body=b'{"user": {"id": 7}, "list": [{"id": "third"}]}',
        user="u",
        session={None: "key", "cart": "s"},
    )
    head.match = EndpointTable([("/carts/{cart}", 1)]).match("GET", "/carts/9")

    read = {
        "header:X-User-Id": "h",
        "cookie:session": "c",
        "query:user": "q",
        "path:cart": "9",
        "json:user.id": "7",
        "json:list.0.id": "third",
        "user": "u",
        "session": "key",
        "session:cart": "s",
        "client": "203.0.113.9",
    }
    assert {spec: parse_source(spec).read(head) for spec in read} == read


def test_the_functions_make_what_the_plan_file_names() -> None:
    made = {
        "header:x-user-id": cm.by_header("X-User-Id"),
        "cookie:a": cm.by_cookie("a"),
        "query:a": cm.by_query("a"),
        "path:a": cm.by_path("a"),
        "json:a.b": cm.by_json("a.b"),
        "user": cm.by_user(),
        "session": cm.by_session(),
        "session:a": cm.by_session("a"),
        "client": cm.by_client(),
    }
    for spec, source in made.items():
        assert source.spec == spec
        assert source == parse_source(spec)
        assert hash(source) == hash(parse_source(spec))
        assert source != object()
        assert repr(source).startswith("by_")
    assert parse_source("anonymous").spec == cm.anonymous().spec == "anonymous"


@pytest.mark.parametrize("spec", ["", "heder:x", "header", "header:", "json:", "json:a..b", "cookie: x", "user:5"])
def test_a_source_that_is_not_known_is_named_with_what_is(spec: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_source(spec)

    assert "header" in str(error.value) or "json" in str(error.value) or "cookie" in str(error.value)


def test_a_header_name_with_a_space_is_no_header_name() -> None:
    with pytest.raises(ConfigError, match="RFC 9110"):
        parse_source("header:x user")


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'{"user": {}}',
        b'{"user": {"id": null}}',
        b'{"user": {"id": true}}',
        b'{"user": {"id": 1.5}}',
        b'{"user": {"id": [1]}}',
        b'{"user": "text"}',
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
def test_a_json_body_without_the_field_has_no_identity(body: bytes | None) -> None:
    assert JsonField("user.id").read(Head(body=body)) is None


def test_a_list_is_entered_by_a_small_number_only() -> None:
    body = b'{"items": [{"id": "a"}]}'

    assert JsonField("items.0.id").read(Head(body=body)) == "a"
    assert JsonField("items.1.id").read(Head(body=body)) is None
    assert JsonField("items.99999999.id").read(Head(body=body)) is None
    assert JsonField("items.x.id").read(Head(body=body)) is None


def test_a_body_over_the_cap_is_not_looked_into() -> None:
    assert JsonField("a", cap=8).read(Head(body=b'{"a": "b"}')) is None
    assert JsonField("a").capped(100).cap == 100


def test_a_function_of_the_apps_sees_the_frameworks_request() -> None:
    assert Custom(lambda native: native).read(Head()) == "native"
    assert Custom(lambda native: 42).read(Head()) == "42"
    assert cm.by_callable(lambda native: None).read(Head()) is None
    assert repr(Custom(str)).startswith("by_callable")
    assert Custom(str).spec == "call:builtins.str"


def test_an_async_function_is_refused_at_start() -> None:
    async def later(request: Any) -> str:
        return "x"

    with pytest.raises(ConfigError, match="async"):
        Custom(later)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # a claim from anywhere else
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", "198.51.100.1"),  # the left end is the client's own claim
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", " , ,198.51.100.1,", "198.51.100.1"),
        ("10.0.0.1", "unknown", "unknown"),
        ("10.0.0.1", "203.0.113.7:5123, 10.0.0.2:80", "203.0.113.7"),
        ("10.0.0.1", "[2001:470::1]:443, [2001:db8::2]:80", "2001:470::1"),
        ("10.0.0.1", "[2001:470::1]", "2001:470::1"),
        ("10.0.0.1", "2001:470::1", "2001:470::1"),
        ("10.0.0.1", "1::2:3", "1::2:3"),  # no port: an address may end like one
        ("10.0.0.1", "unknown:x", "unknown:x"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8::1", "198.51.100.1", "198.51.100.1"),
        ("unix:", "198.51.100.1", "unix:"),
        (None, "198.51.100.1", None),
    ],
)
def test_forwarded_addresses_are_believed_from_trusted_proxies_only(
    peer: str | None, forwarded: str | None, expected: str | None
) -> None:
    source = cm.by_client(["10.0.0.0/8", "2001:db8::/32"])

    assert source.read(Head(peer=peer, headers={"x-forwarded-for": forwarded} if forwarded else {})) == expected


def test_clients_are_compared_by_their_proxies() -> None:
    assert Client(["10.0.0.0/8"]) == Client(["10.0.0.0/8"]) != Client(None)
    assert Client(None) != 5
    assert "10.0.0.0/8" in repr(Client(["10.0.0.0/8"]))
    with pytest.raises(ConfigError, match="trusted proxy"):
        Client(["10.0.0.0/99"])


def test_the_anonymous_cookie_carries_its_attributes() -> None:
    plain = Anonymous(secure=False, httponly=False, same_site=None, max_age_s=60, path="/shop", domain="a.example")

    assert plain.set_cookie("abc") == "canary_id=abc; Max-Age=60; Path=/shop; Domain=a.example"
    assert Anonymous().set_cookie("abc") == ("canary_id=abc; Max-Age=31536000; Path=/; Secure; HttpOnly; SameSite=Lax")


def test_a_signed_cookie_is_read_back_and_a_forged_one_is_not() -> None:
    source = Anonymous(secret="s3cret")
    value = source.set_cookie("abc").split(";")[0].removeprefix("canary_id=")

    assert value == "abc." + hmac.new(b"s3cret", b"abc", "sha256").hexdigest()
    assert source.read(Head(cookies={"canary_id": value})) == "abc"
    for forged in ("abc", "abc.", ".", "", "abd" + value[3:], value[:-1], "abc.é"):
        assert source.read(Head(cookies={"canary_id": forged})) is None
    assert source.read(Head()) is None
    assert Anonymous().read(Head(cookies={"canary_id": "free"})) == "free"


def test_anonymous_sources_are_compared_by_what_they_do() -> None:
    assert Anonymous() == Anonymous()
    assert Anonymous() != Anonymous(secret=b"x")
    assert Anonymous() != Anonymous.unbound()
    assert Anonymous() != "anonymous"
    assert hash(Anonymous()) == hash(Anonymous())
    assert repr(cm.anonymous("visitor")) == "anonymous('visitor')"


@pytest.mark.parametrize(
    "options", [{"cookie": "a b"}, {"cookie": ""}, {"same_site": "lax"}, {"path": "/;x"}, {"domain": "a,b"}]
)
def test_what_a_cookie_cannot_carry_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="anonymous"):
        Anonymous(**options)


def test_an_identity_is_not_empty_and_not_huge() -> None:
    assert is_usable("u")
    assert is_usable("é" * (MAX_IDENTITY_BYTES // 2))
    assert not is_usable("é" * (MAX_IDENTITY_BYTES // 2 + 1))
    assert not is_usable("x" * 1_000_000)
    assert not is_usable("")
    assert not is_usable(None)


def test_a_number_is_its_decimal_text_and_anything_else_is_refused() -> None:
    assert [identity_text(one) for one in (None, "", "7", 7, -1)] == [None, "", "7", "7", "-1"]
    for wrong in (True, 1.5, b"7", object()):
        with pytest.raises(TypeError, match="an identity is text or an int, not"):
            identity_text(wrong)
