"""
A forced version, authenticated: by the token itself, or by a signature made with it that says until when.

A tester's tool may send the token (``X-Canary: v2`` and ``X-Canary-Token: …``). A browser or a partner gets a signed
value, ``v2~1767225600~<hex>``, which is good for the header and the cookie and tells nobody the token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..ports import RequestHead

TOKEN_HEADER: Final = "x-canary-token"  # noqa: S105 - a header's name
_DOMAIN: Final = b"canary-override1\0"


class Rejected(Exception):
    """Somebody asked for a version without the right to: no token, a forged signature, or one that has expired."""

    is_of_a_client = True


def sign(wanted: str, *, token: str, until_s: int) -> str:
    """
    A value for the override header or cookie.

    Args:
        wanted: ``always``, ``never`` or a version's name.
        token: the shared secret.
        until_s: Unix time from which on it is refused.
    """
    return f"{wanted}~{until_s}~{_signature(wanted, until_s, token)}"


def _signature(wanted: str, until_s: int, token: str) -> str:
    from hmac import digest

    return digest(token.encode(), _DOMAIN + f"{wanted}~{until_s}".encode("utf-8", "replace"), "sha256").hex()


def _same(left: str, right: str) -> bool:
    from hmac import compare_digest

    return compare_digest(left.encode("utf-8", "replace"), right.encode("utf-8", "replace"))


class OverrideReader:
    """
    Reads what version a request asks for.

    Args:
        header: header name in lower case, or None.
        cookie: cookie name, or None.
        token: the shared secret; not empty.
    """

    __slots__ = ("_cookie", "_header", "_token")

    def __init__(self, header: str | None, cookie: str | None, token: str) -> None:
        self._header = header.lower() if header else None
        self._cookie = cookie
        self._token = token

    def read(self, head: RequestHead, now_s: float) -> str | None:
        """
        ``always``, ``never``, a version's name, or None where the request asks for none.

        Raises Rejected where it asks without the right to.
        """
        if self._header is not None and (value := head.header(self._header)):
            return self._signed(value, now_s) if "~" in value else self._with_token(value, head)
        if self._cookie is not None and (value := head.cookie(self._cookie)):
            return self._signed(value, now_s)
        return None

    def _with_token(self, wanted: str, head: RequestHead) -> str:
        if not _same(head.header(TOKEN_HEADER) or "", self._token):
            raise Rejected("the token is missing or wrong")
        return wanted

    def _signed(self, value: str, now_s: float) -> str:
        wanted, _, rest = value.partition("~")
        until, _, signature = rest.partition("~")
        if not (until.isascii() and until.isdecimal() and len(until) < 16):
            raise Rejected("the value is not signed")
        if not _same(signature, _signature(wanted, int(until), self._token)):
            raise Rejected("the signature is forged")
        if now_s >= int(until):
            raise Rejected("it has expired")
        return wanted
