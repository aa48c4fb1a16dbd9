"""A forced version: by the token, or by a signature that says until when."""

from __future__ import annotations

import pytest

from canary_middleware._core.assignment.override import OverrideReader, Rejected, sign

from .heads import Head

TOKEN = "t0ken"
NOW = 1_700_000_000.0


def reader(header: str | None = "X-Canary", cookie: str | None = "canary") -> OverrideReader:
    return OverrideReader(header, cookie, TOKEN)


def test_a_request_that_asks_for_nothing_gets_nothing() -> None:
    assert reader().read(Head(), NOW) is None
    assert reader(None, None).read(Head(headers={"x-canary": "v2"}), NOW) is None


def test_the_token_itself_is_good_for_the_header() -> None:
    assert reader().read(Head(headers={"x-canary": "v2", "x-canary-token": TOKEN}), NOW) == "v2"


@pytest.mark.parametrize("token", [None, "", "wrong", "t0kenn", "tökén"])
def test_a_wrong_token_is_rejected(token: str | None) -> None:
    headers = {"x-canary": "v2", **({} if token is None else {"x-canary-token": token})}

    with pytest.raises(Rejected, match="token"):
        reader().read(Head(headers=headers), NOW)


def test_a_signed_value_is_good_for_header_and_cookie_until_it_expires() -> None:
    value = sign("always", token=TOKEN, until_s=int(NOW) + 60)

    assert reader().read(Head(headers={"x-canary": value}), NOW) == "always"
    assert reader().read(Head(cookies={"canary": value}), NOW + 59) == "always"
    with pytest.raises(Rejected, match="expired"):
        reader().read(Head(cookies={"canary": value}), NOW + 60)


@pytest.mark.parametrize(
    "value",
    [
        "v2",
        "v2~",
        "v2~~",
        "v2~1800000000~00",
        "v2~x~00",
        "v2~-5~00",
        "v2~99999999999999999~00",
        "v2~１８~00",
        sign("v1", token=TOKEN, until_s=1_800_000_000).replace("v1~", "v2~"),
        sign("v2", token="other", until_s=1_800_000_000),
        sign("v2", token=TOKEN, until_s=1_800_000_000).replace("18", "19", 1),
        sign("v2", token=TOKEN, until_s=1_800_000_000) + "é",
    ],
)
def test_a_forged_value_is_rejected(value: str) -> None:
    with pytest.raises(Rejected):
        reader().read(Head(cookies={"canary": value}), NOW)
