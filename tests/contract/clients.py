"""Two small clients that do what servers do: one speaks WSGI (under its validator), one ASGI."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.validate import validator

from .behaviour import Answer

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


def _pairs(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


class _Input(io.BytesIO):
    """A server's input that notes how much is taken of it."""

    def __init__(self, body: bytes, taken: list[int]) -> None:
        super().__init__(body)
        self._taken = taken

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._taken.append(len(data))
        return data


def _in_environ(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    env: dict[str, str] = {}
    for name, value in headers:
        raw = value.encode("utf-8", "surrogateescape").decode("latin-1")
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        # Servers join repeated headers, cookies by a semicolon (RFC 3875 §4.1.18).
        env[key] = f"{env[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{raw}" if key in env else raw
    return env


def wsgi_request(  # noqa: C901 - flat, as a server is
    app: Any,
    method: str = "GET",
    target: str = "/",
    headers: Headers = (),
    body: bytes = b"",
    *,
    read: int | None = None,
    environ: Mapping[str, Any] | None = None,
    validate: bool = True,
    peer: str = "203.0.113.9",
    cut: bool = False,
    taken: list[int] | None = None,
) -> Answer:
    """
    One request. With a Transfer-Encoding header the body goes without a length.

    Args:
        read: chunks to take before the client leaves; None takes all.
        peer: the client's address.
        cut: the client leaves in the middle of its body: here, the input ends before its length.
        taken: gets the size of each piece of the body that is asked of the server.
    """
    path, _, query = target.partition("?")
    env: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.encode("utf-8", "surrogateescape").decode("latin-1"),
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": peer,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": _Input(body, [] if taken is None else taken),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body:
        env["CONTENT_LENGTH"] = str(len(body) * (2 if cut else 1))
    env.update(_in_environ(_pairs(headers)))
    is_chunked = "HTTP_TRANSFER_ENCODING" in env
    if is_chunked:
        del env["CONTENT_LENGTH"]
        env["wsgi.input_terminated"] = True  # gunicorn's and Werkzeug's word that the input has an end of its own
    env.update(environ or {})
    started: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(status: str, response_headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if started and exc_info is None:
            raise AssertionError("start_response called twice")
        if started and written:
            raise exc_info[1]
        started[:] = [(status, list(response_headers))]
        return written.append

    result: Any = None
    error: BaseException | None = None
    try:
        # The validator forbids to read up to the end, the only way to read a body without a length.
        result = (validator(app) if validate and not is_chunked else app)(env, start_response)
        for n, chunk in enumerate(result):
            if read is not None and n >= read:
                break
            if chunk:
                assert started, "a chunk came before start_response"
                written.append(chunk)
    except Exception as caught:
        error = caught.with_traceback(None)
    finally:
        if hasattr(result, "close"):
            result.close()
    if not started:
        return Answer(status=500, headers=[], body=b"", error=error)
    status, response_headers = started[0]
    return Answer(
        status=int(status[:3]), headers=response_headers, body=b"".join(written), error=error, chunks=list(written)
    )


def asgi_request(
    app: Any,
    method: str = "GET",
    target: str = "/",
    headers: Headers = (),
    body: bytes = b"",
    *,
    read: int | None = None,
    chunk_size: int = 0,
    scope: Mapping[str, Any] | None = None,
    peer: str = "203.0.113.9",
    cut: bool = False,
    taken: list[int] | None = None,
) -> Answer:
    """One request; see ``wsgi_request``. With *chunk_size* the body comes in pieces."""
    extra = {"client": (peer, 40000), **(scope or {})}
    noted = [] if taken is None else taken
    return asyncio.run(_asgi_request(app, method, target, headers, body, read, chunk_size, extra, cut, noted))


def _raw(headers: Iterable[tuple[str, str]], length: int) -> list[tuple[bytes, bytes]]:
    raw = [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers]
    if length and not any(name in (b"content-length", b"transfer-encoding") for name, _ in raw):
        raw.append((b"content-length", str(length).encode()))
    return raw


def _messages(body: bytes, size: int, cut: bool) -> list[dict[str, Any]]:
    pieces = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    return [
        {"type": "http.request", "body": piece, "more_body": cut or n < len(pieces) - 1}
        for n, piece in enumerate(pieces)
    ]


async def _asgi_request(  # noqa: C901
    app: Any,
    method: str,
    target: str,
    headers: Headers,
    body: bytes,
    read: int | None,
    chunk_size: int,
    extra: Mapping[str, Any],
    cut: bool,
    taken: list[int],
) -> Answer:
    path, _, query = target.partition("?")
    raw = _raw(_pairs(headers), len(body) * (2 if cut else 1))
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode(),
        "query_string": query.encode("utf-8", "surrogateescape"),
        "root_path": "",
        "headers": raw,
        "server": ("testserver", 80),
        **extra,
    }
    waiting = _messages(body, chunk_size or len(body) or 1, cut)
    left = asyncio.Event()
    answer = Answer(status=500, headers=[], body=b"")
    starts = 0

    async def receive() -> dict[str, Any]:
        if waiting:
            taken.append(len(waiting[0]["body"]))
            return waiting.pop(0)
        if not cut:
            await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal starts
        if left.is_set():
            raise OSError("the client has left")
        if message["type"] == "http.response.start":
            starts += 1
            assert starts == 1, "http.response.start sent twice"
            answer.status = message["status"]
            answer.headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            if message.get("body"):
                answer.chunks.append(message["body"])
            if not message.get("more_body", False) or (read is not None and len(answer.chunks) >= read):
                left.set()

    try:
        await app(scope, receive, send)
    except Exception as caught:
        answer.error = caught.with_traceback(None)  # it would keep the whole request alive
    answer.body = b"".join(answer.chunks)
    return answer


Request = Callable[..., Answer]
