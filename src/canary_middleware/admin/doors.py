"""
The API behind WSGI and ASGI: as an app of its own, or below a path of a service's middleware.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from ..errors import ConfigError
from .access import Access
from .api import AdminAPI
from .exchange import MAX_BODY, Problem, Request, cut_short, too_long, without_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._core.ports import ASGIApp, Environ, Receive, Scope, Send, StartResponse, WSGIApp
    from ..canary import Canary
    from .access import Authenticator


def create_app(
    canary: Canary,
    *,
    token: str | None = None,
    read_token: str | None = None,
    authenticator: Authenticator | None = None,
) -> WSGIApp:
    """
    The API as a WSGI app, for mounting by hand.

    Args:
        token, read_token, authenticator: see ``Access``; the authenticator gets the WSGI environ.
    Raises:
        ConfigError: nobody could come in.
    """
    api = AdminAPI(canary, Access(token, read_token, authenticator))

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return answer_wsgi(api, environ, start_response, environ.get("PATH_INFO", ""))

    return app


def asgi_app(
    canary: Canary,
    *,
    token: str | None = None,
    read_token: str | None = None,
    authenticator: Authenticator | None = None,
) -> ASGIApp:
    """The same as an ASGI app; the authenticator gets the scope."""
    api = AdminAPI(canary, Access(token, read_token, authenticator))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer_asgi(api, scope, receive, send, local_path(scope))

    return app


class Admin(NamedTuple):
    """
    What a middleware's ``admin=`` says where a path alone is not enough.

    Attributes:
        path: where the API stands, as ``/admin/canary``.
        token, read_token, authenticator: see ``Access``.
    """

    path: str
    token: str | None = None
    read_token: str | None = None
    authenticator: Authenticator | None = None


class Mount:
    """
    The API below a path of a service.

    Args:
        admin: the path, or more.
        canary: what is looked at and steered.
        authenticator: the framework's own, where *admin* names none.
    Raises:
        ConfigError: *admin* is no path, or nobody could come in.
    """

    def __init__(self, admin: str | Admin, canary: Canary, authenticator: Authenticator | None = None) -> None:
        wanted = admin if isinstance(admin, Admin) else Admin(admin)
        if not isinstance(wanted.path, str):
            raise ConfigError(f"admin = {admin!r}: must be a path such as '/admin/canary', or an admin.Admin")
        self._prefix = wanted.path.rstrip("/")
        if not self._prefix.startswith("/"):
            raise ConfigError(
                f"admin = {wanted.path!r}: must be a path below the service's own, such as '/admin/canary'"
            )
        self._below = f"{self._prefix}/"
        access = Access(wanted.token, wanted.read_token, wanted.authenticator or authenticator)
        self.api = AdminAPI(canary, access)

    def below(self, path: str) -> str | None:
        """What of *path* is below the mount, beginning with ``/``; None where it is not the mount's."""
        if path.startswith(self._below):
            return path[len(self._prefix) :]
        return "/" if path == self._prefix else None

    def wsgi(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes] | None:
        """The API's answer; None for a request that is not its own."""
        path = self.below(environ.get("PATH_INFO", ""))
        return None if path is None else answer_wsgi(self.api, environ, start_response, path)

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request of the API's; False for one that is not its own."""
        path = self.below(local_path(scope))
        if path is None:
            return False
        await answer_asgi(self.api, scope, receive, send, path)
        return True


def answer_wsgi(api: AdminAPI, environ: Environ, start_response: StartResponse, path: str) -> Iterable[bytes]:
    """One WSGI request; *path* is below the mount."""

    def header(name: str) -> str | None:
        key = name.upper().replace("-", "_")
        value = environ.get(key if key == "CONTENT_TYPE" else f"HTTP_{key}")
        return None if value is None else str(value)

    method = environ.get("REQUEST_METHOD", "GET")
    body = b"" if method in ("GET", "HEAD") else _body(environ)
    query = _query(environ.get("QUERY_STRING", ""))
    answer = api.answer(Request(method, path, query, header, body, environ))
    start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.headers))
    return [answer.body]


def _body(environ: Environ) -> bytes | Problem:
    try:
        return _read(environ)
    except OSError:  # servers' word for a client that has left
        return cut_short()


def _read(environ: Environ) -> bytes | Problem:
    if environ.get("HTTP_TRANSFER_ENCODING"):
        # WSGI promises no end of such a body; some servers do.
        body = _taken(environ, MAX_BODY + 1) if environ.get("wsgi.input_terminated") else without_length()
        return too_long() if isinstance(body, bytes) and len(body) > MAX_BODY else body
    length = environ.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdecimal()):
        return without_length()
    if int(length[:12]) > MAX_BODY:
        return too_long()
    body = _taken(environ, int(length))
    return body if len(body) == int(length) else cut_short()


def _taken(environ: Environ, most: int) -> bytes:
    body = b""
    while len(body) < most:
        piece = environ["wsgi.input"].read(most - len(body))
        if not piece:
            break
        body += piece
    return body


async def answer_asgi(api: AdminAPI, scope: Scope, receive: Receive, send: Send, path: str) -> None:
    """One ASGI request; *path* is below the mount. The store is asked in a thread."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    method = scope["method"]
    body = b"" if method in ("GET", "HEAD") else await _receive(receive)
    query = _query(scope.get("query_string", b"").decode("latin-1"))
    request = Request(method, path, query, headers.get, body, scope)
    answer = await asyncio.to_thread(api.answer, request)
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body})


async def _receive(receive: Receive) -> bytes | Problem:
    chunks, length = [], 0
    while length <= MAX_BODY:
        message = await receive()
        if message["type"] != "http.request":
            return cut_short()
        chunks.append(message.get("body", b""))
        length += len(chunks[-1])
        if not message.get("more_body", False):
            break
    return too_long() if length > MAX_BODY else b"".join(chunks)


def local_path(scope: Mapping[str, Any]) -> str:
    """The path below the app's mount point."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


def _query(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
        found.setdefault(name, value)
    return found
