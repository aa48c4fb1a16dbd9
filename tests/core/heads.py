"""A request head for tests: a dict per place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from canary_middleware._core.exchange import Exchange
from canary_middleware._core.ports import BodyNotRead

if TYPE_CHECKING:
    from collections.abc import Mapping

    from canary_middleware._core.assignment.endpoints import Match


class Head:
    """What a front door would make of a request."""

    match: Match[Any] | None = None
    new_id: str | None = None
    resume: BodyNotRead | None = None
    scheme = "http"
    app: object = None
    native: object = "native"

    def __init__(
        self,
        *,
        method: str = "GET",
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        attributes: Mapping[str, str] | None = None,
        body: bytes | None = None,
        is_body_read: bool = True,
        user: str | None = None,
        session: Mapping[str | None, str] | None = None,
        peer: str | None = "203.0.113.9",
    ) -> None:
        self.method = method
        self.path = path
        self.peer = peer
        self._headers = headers or {}
        self._cookies = cookies or {}
        self._query = query or {}
        self._attributes = attributes or {}
        self._body = body
        self._is_body_read = is_body_read
        self._user = user
        self._session = session or {}

    def exchange(self, assignment: Any, door: Any, started: float) -> Exchange:
        exchange = Exchange(self.method)
        exchange.admit(assignment, door, started)
        return exchange

    def header(self, name: str) -> str | None:
        return self._headers.get(name)

    def cookie(self, name: str) -> str | None:
        return self._cookies.get(name)

    def query(self, name: str) -> str | None:
        return self._query.get(name)

    def path_param(self, name: str) -> str | None:
        return None if self.match is None else self.match.param(name)

    def user(self) -> str | None:
        return self._user

    def session(self, name: str | None) -> str | None:
        return self._session.get(name)

    def attribute(self, name: str) -> str | None:
        return self._attributes.get(name)

    def body(self, cap: int) -> bytes | None:
        if not self._is_body_read:
            raise BodyNotRead(cap)
        return self._body if self._body is None or len(self._body) <= cap else None
