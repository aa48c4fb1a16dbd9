"""
A small real HTTP client: one keep-alive connection each, header names and order kept, bytes as they came.

http.client under it: no pool, no redirects, no cookies, nothing that could hide what a middleware did.
"""

from __future__ import annotations

import http.client
import json as jsonlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Headers = tuple[tuple[str, str], ...]

DEFAULT_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request for ``drive``."""

    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. Header names are as sent, repeated headers stay apart."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of *name*, None where absent."""
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> list[str]:
        """Every value of *name*, in order."""
        wanted = name.lower()
        return [value for key, value in self.headers if key.lower() == wanted]

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return jsonlib.loads(self.body)


class Client:
    """
    One connection that is kept open and opened again when the server has closed it. Not for several threads.

    Args:
        base_url: ``http://127.0.0.1:8000``.
        timeout: seconds for connecting and for every read.
        headers: sent with every request.
    """

    def __init__(
        self, base_url: str, *, timeout: float = DEFAULT_TIMEOUT_S, headers: Mapping[str, str] | None = None
    ) -> None:
        url = urlsplit(base_url)
        self._connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout)
        self._prefix = url.path.rstrip("/")
        self._headers = dict(headers or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str, **headers: str) -> Response:
        """GET; a header ``x_user_id="u"`` is sent as ``x-user-id: u``."""
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, json: Any = None, *, headers: Mapping[str, str] | None = None) -> Response:
        """POST *json* with its content type."""
        sent = {"content-type": "application/json", **(headers or {})}
        return self.request("POST", path, headers=sent, body=jsonlib.dumps(json).encode())

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """One request and its whole response. An iterable *body* goes out chunked."""
        with self.stream(method, path, headers=headers, body=body) as streamed:
            return Response(streamed.status, streamed.headers, streamed.read())

    def stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> StreamedResponse:
        """One request whose body is read piece by piece; leaving the ``with`` early hangs up."""
        sent = {**self._headers, **(headers or {})}
        fresh = self._connection.sock is None
        try:
            return self._exchange(method, path, sent, body)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self._connection.close()
            # The server closed an idle connection, which is its right; a new one that breaks is a finding.
            if fresh or not (body is None or isinstance(body, bytes)):
                raise
        return self._exchange(method, path, sent, body)

    def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> StreamedResponse:
        if self._connection.sock is None:
            # Sets TCP_NODELAY itself.
            self._connection.connect()
        self._connection.request(method, self._prefix + path, body=body, headers=dict(headers))
        return StreamedResponse(self._connection, self._connection.getresponse())


class StreamedResponse:
    """A response whose body is still on its way."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status: Final = response.status
        self.headers: Final[Headers] = tuple(response.getheaders())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        finished = self._response.isclosed()
        self._response.close()
        if not finished:
            self._connection.close()

    def __iter__(self) -> Iterator[bytes]:
        """The body as it arrives, in pieces of any size."""
        while piece := self._response.read1(65_536):
            yield piece

    def lines(self) -> Iterator[bytes]:
        """The body line by line, without line ends: server-sent events."""
        while line := self._response.readline():
            yield line.rstrip(b"\r\n")

    def read(self) -> bytes:
        """The rest of the body."""
        return self._response.read()


def drive(base_url: str, requests: Iterable[Request], *, connections: int = 4) -> list[Response]:
    """
    Send every request once over *connections* parallel keep-alive connections.

    Returns:
        the responses in the order of *requests*.

    Raises:
        the first error of any connection, after all have stopped.
    """
    todo = list(enumerate(requests))
    todo.reverse()
    done: dict[int, Response] = {}
    errors: list[BaseException] = []

    def work() -> None:
        with Client(base_url) as client:
            while not errors:
                # list.pop is atomic: the list itself is the queue.
                try:
                    index, request = todo.pop()
                except IndexError:
                    return
                try:
                    done[index] = client.request(
                        request.method, request.path, headers=request.headers, body=request.body
                    )
                except Exception as error:
                    errors.append(error)

    threads = [threading.Thread(target=work, name=f"client-{n}") for n in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [done[index] for index in range(len(done))]


def send_raw(base_url: str, data: bytes, *, timeout: float = DEFAULT_TIMEOUT_S, half_close: bool = False) -> bytes:
    """
    Send *data* as it is on a new connection; all that comes back until the server closes it.

    Put ``Connection: close`` into *data*, or the server waits for more. *half_close* ends our side after sending.
    """
    url = urlsplit(base_url)
    with socket.create_connection((url.hostname or "", url.port or 80), timeout=timeout) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        pieces: list[bytes] = []
        while piece := connection.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)
