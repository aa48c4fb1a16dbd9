"""
Requests and answers of the admin API, without a server: what the front doors translate from and to.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_BODY: Final = 65_536
"""Bytes; a verb needs a few hundred."""

_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)
_TITLES: Final = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Changed by somebody else",
    411: "Length required",
    413: "Too long",
    415: "Unsupported media type",
    422: "Refused",
    500: "Internal error",
    503: "Store unavailable",
}


class Request(NamedTuple):
    """
    One request.

    Attributes:
        path: below the mount point, beginning with ``/``.
        query: each name's first value.
        header: a header's value by its lower-case name, or None.
        body: or what is wrong with it. One that was not read whole must not pass for an empty one, which says
            "all of it, now" to some verbs.
        native: the framework's own request.
    """

    method: str
    path: str
    query: Mapping[str, str]
    header: Callable[[str], str | None]
    body: bytes | Problem
    native: object


class Answer(NamedTuple):
    """One answer; the body is JSON."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Problem(Exception):
    """A request that is answered with an error (RFC 9457)."""

    def __init__(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def answer(self) -> Answer:
        """What the client gets."""
        document = {"type": "about:blank", "title": _TITLES[self.status], "status": self.status, "detail": self.detail}
        return _answer(self.status, document, "application/problem+json", self.headers)


def too_long() -> Problem:
    """What is wrong with a body that was not read for its length."""
    return Problem(413, f"the body is longer than {MAX_BODY:,} bytes")


def cut_short() -> Problem:
    """What is wrong with a body whose client left before its end."""
    return Problem(400, "the body ended before its length")


def without_length() -> Problem:
    """What is wrong with a body that has no end the server tells of."""
    return Problem(411, "this server does not tell where a body without Content-Length ends: send one")


def ok(data: object) -> Answer:
    """*data*, which JSON can hold, as an answer: 200, or 202 where a change is not in force everywhere."""
    results = data if isinstance(data, list) else [data]
    is_partly = any(isinstance(result, dict) and result.get("problem") for result in results)
    return _answer(202 if is_partly else 200, data, "application/json", ())


def _answer(status: int, data: object, kind: str, headers: tuple[tuple[str, str], ...]) -> Answer:
    body = json.dumps(data, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return Answer(status, (("Content-Type", kind), ("Content-Length", str(len(body))), *_HEADERS, *headers), body)
