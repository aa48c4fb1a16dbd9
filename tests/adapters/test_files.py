"""File responses of the frameworks arrive whole behind us, and the server can still send them its own fast way."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import flask
import pytest
from fastapi import FastAPI
from fastapi.responses import FileResponse, StreamingResponse
from gunicorn.http.wsgi import FileWrapper
from starlette.staticfiles import StaticFiles

from canary_middleware import handlers
from canary_middleware.asgi import CanaryMiddleware
from canary_middleware.flask import init_app
from canary_middleware.testing import recorded

from .traces import MODES, USER, asgi_trace, environ_of, http_scope, wsgi_trace

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(n % 251 for n in range(300_000))
COVERED = [mode for mode in MODES if mode != "uncovered"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "report.bin"
    found.write_bytes(CONTENT)
    return found


def digest(data: bytes) -> str:
    # Not the data itself: a failure would print all of it.
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("mode", COVERED)
def test_flasks_send_file_reaches_the_server_as_its_own_file_wrapper(file: Path, mode: str) -> None:
    app = flask.Flask(__name__)
    app.add_url_rule("/", "f", handlers(lambda: flask.send_file(file), lambda: flask.send_file(file)))
    canary = MODES[mode]()
    init_app(app, canary)

    with recorded(canary) as outcomes:
        trace = wsgi_trace(app, environ=environ_of(**{"wsgi.file_wrapper": FileWrapper}))

    assert type(trace.body) is FileWrapper
    assert trace.body.filelike.closed
    assert digest(trace.data) == digest(CONTENT)
    assert [(o.status, o.is_aborted) for o in outcomes] == [(200, False)]


@pytest.mark.parametrize("mode", COVERED)
@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [(None, "200", CONTENT), ("bytes=10-19", "206", CONTENT[10:20]), ("bytes=-5", "206", CONTENT[-5:])],
)
def test_flasks_ranges_are_answered_as_without_us(
    file: Path, mode: str, header: str | None, status: str, expected: bytes
) -> None:
    app = flask.Flask(__name__)
    app.add_url_rule("/", "f", lambda: flask.send_file(file))
    more = {} if header is None else {"HTTP_RANGE": header}
    bare = wsgi_trace(app, environ=environ_of(**more))
    init_app(app, MODES[mode]())

    ours = wsgi_trace(app, environ=environ_of(**more))

    def stable(head: Any) -> list[Any]:
        return [pair for pair in head[2] if pair[0] != "Date"]

    assert ours.wire[0][1][:3] == status
    assert stable(ours.wire[0]) == stable(bare.wire[0])
    assert digest(ours.data) == digest(expected)


def fastapi_of(file: Path) -> FastAPI:
    app = FastAPI()

    @app.api_route("/", methods=["GET", "HEAD"])
    async def whole() -> FileResponse:
        return FileResponse(file, headers={"last-modified": "x"})

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(CONTENT[n : n + 1000] for n in range(0, len(CONTENT), 1000))

    app.mount("/static", StaticFiles(directory=file.parent))
    return app


@pytest.mark.parametrize("mode", COVERED)
@pytest.mark.parametrize(
    ("method", "path", "headers", "extensions"),
    [
        ("GET", "/", [], {}),
        ("HEAD", "/", [], {}),
        ("GET", "/", [(b"range", b"bytes=5-9")], {}),
        ("GET", "/", [], {"http.response.pathsend": {}}),
        ("GET", "/static/report.bin", [], {}),
        ("GET", "/static/none", [], {}),
        ("GET", "/stream", [], {}),
    ],
    ids=["whole", "head", "range", "by path", "static", "not found", "stream"],
)
def test_starlettes_files_reach_the_server_message_by_message(
    file: Path, mode: str, method: str, path: str, headers: Any, extensions: Any
) -> None:
    def scope() -> dict[str, Any]:
        return http_scope(method, path, headers=[(USER.encode(), b"u"), *headers], extensions=extensions)

    app = fastapi_of(file)
    bare = asyncio.run(asgi_trace(app, scope=scope()))
    canary = MODES[mode]()

    with recorded(canary) as outcomes:
        ours = asyncio.run(asgi_trace(CanaryMiddleware(app, canary=canary), scope=scope()))

    assert ours.error is bare.error is None
    assert [m["type"] for m in ours.calls] == [m["type"] for m in bare.calls]
    assert [digest(repr(m).encode()) for m in ours.calls] == [digest(repr(m).encode()) for m in bare.calls]
    assert [(o.is_aborted, o.error_type) for o in outcomes] == [(False, None)]
