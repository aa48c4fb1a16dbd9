"""Who comes in: the ones that were meant, and nobody by a slip of configuration."""

from __future__ import annotations

from typing import Any

import pytest

from canary_middleware.admin import Access, Principal, create_app
from canary_middleware.errors import ConfigError

from .conftest import TOKEN, ask, make


async def by_coroutine(native: object) -> Principal | None:
    return None


class Directory:
    async def __call__(self, native: object) -> Principal | None:
        return None


@pytest.mark.parametrize("authenticator", [by_coroutine, Directory()])
def test_an_async_authenticator_is_refused_for_its_coroutine_is_no_refusal(authenticator: Any) -> None:
    with pytest.raises(ConfigError, match="must be a plain function"):
        Access(authenticator=authenticator, environ={})


@pytest.mark.parametrize("answer", [False, True, "ann", 0, ("ann", True, True)])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_authenticator_that_answers_no_principal_lets_nobody_in(answer: Any, method: str) -> None:
    canary = make(weight=50)
    app = create_app(canary, authenticator=lambda _: answer)

    status, problem = ask(app, method, "/status" if method == "GET" else "/emergency", authorization="")

    assert (status, problem["title"]) == (500, "Internal error")
    assert canary.rollout().phase == "idle"


@pytest.mark.parametrize("secret", ["größer-als-sechzehn", f"{TOKEN}\n", f"two {TOKEN}", f"{TOKEN}\x00"])
def test_a_token_that_no_client_can_send_is_refused_at_start(secret: str) -> None:
    with pytest.raises(ConfigError, match="letter outside ASCII: must hold none"):
        Access(secret, environ={})


def test_one_token_for_both_is_refused_because_whoever_looks_could_steer() -> None:
    with pytest.raises(ConfigError, match="CANARY_ADMIN_TOKEN and CANARY_ADMIN_READ_TOKEN are the same"):
        Access(environ={"CANARY_ADMIN_TOKEN": TOKEN, "CANARY_ADMIN_READ_TOKEN": TOKEN})


def test_tokens_of_the_environment_and_an_authenticator_stand_beside_each_other() -> None:
    access = Access(authenticator=lambda _: Principal("ann"), environ={"CANARY_ADMIN_TOKEN": TOKEN})

    assert [who and who.name for who in (access.who(f"bearer {TOKEN}", None), access.who(None, None))] == [
        "admin-token",
        "ann",
    ]
    assert access.who("Bearer wrong", None) is None, "a wrong token is not somebody without one"


SITES = {
    "its own": ({"sec_fetch_site": "same-origin"}, 200),
    "typed by its user": ({"sec_fetch_site": "none"}, 200),
    "its own, behind a proxy that renames the host": (
        {"sec_fetch_site": "same-origin", "origin": "https://shop.example", "host": "backend:8000"},
        200,
    ),
    "its own, in an old browser": ({"origin": "https://shop.example", "host": "shop.example"}, 200),
    "a neighbour's": ({"sec_fetch_site": "same-site"}, 403),
    "another's": ({"sec_fetch_site": "cross-site"}, 403),
    "another's, with the right origin": (
        {"sec_fetch_site": "cross-site", "origin": "https://shop.example", "host": "shop.example"},
        403,
    ),
    "another's, in an old browser": ({"origin": "https://evil.example", "host": "shop.example"}, 403),
    "a sandbox": ({"origin": "null", "host": "shop.example"}, 403),
}


@pytest.mark.parametrize("page", SITES)
def test_only_a_page_of_the_same_site_may_steer_with_its_users_cookie(page: str) -> None:
    headers, expected = SITES[page]
    app = create_app(make(), authenticator=lambda _: Principal("ann"))

    assert ask(app, "POST", "/emergency", authorization="", **headers)[0] == expected
    assert ask(app, "GET", "/status", authorization="", **headers)[0] == 200
