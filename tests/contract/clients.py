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


def wsgi_request(
    app: Any,
    method: str = "GET",
    target: str = "/",
    headers: Headers = (),
    body: bytes = b"",
    *,
    read: int | None = None,
    environ: Mapping[str, Any] | None = None,
    validate: bool = True,
) -> Answer:
    """
    One request.

    Args:
        read: chunks to take before the client leaves; None takes all.
    """
    path, _, query = target.partition("?")
    env: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "203.0.113.9",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body:
        env["CONTENT_LENGTH"] = str(len(body))
    for name, value in _pairs(headers):
        raw = value.encode("utf-8", "surrogateescape").decode("latin-1")
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        # Servers join repeated headers, cookies by a semicolon (RFC 3875 §4.1.18).
        env[key] = f"{env[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{raw}" if key in env else raw
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
        result = (validator(app) if validate else app)(env, start_response)
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
) -> Answer:
    """One request; see ``wsgi_request``. With *chunk_size* the body comes in pieces."""
    return asyncio.run(_asgi_request(app, method, target, headers, body, read, chunk_size, scope or {}))


async def _asgi_request(
    app: Any,
    method: str,
    target: str,
    headers: Headers,
    body: bytes,
    read: int | None,
    chunk_size: int,
    extra: Mapping[str, Any],
) -> Answer:
    path, _, query = target.partition("?")
    raw = [(name.lower().encode(), value.encode("utf-8", "surrogateescape")) for name, value in _pairs(headers)]
    if body and not any(name == b"content-length" for name, _ in raw):
        raw.append((b"content-length", str(len(body)).encode()))
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": raw,
        "client": ("203.0.113.9", 40000),
        "server": ("testserver", 80),
        **extra,
    }
    size = chunk_size or len(body) or 1
    pieces = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    waiting = [
        {"type": "http.request", "body": piece, "more_body": n < len(pieces) - 1} for n, piece in enumerate(pieces)
    ]
    left = asyncio.Event()
    answer = Answer(status=500, headers=[], body=b"")
    starts = 0

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
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
