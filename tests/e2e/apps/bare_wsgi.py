"""Two whole WSGI apps as one."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from canary_middleware import wsgi

from .shop import CHUNK, DOWNLOAD_CHUNKS, Broken, canary, counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE = CHUNK * 16


def download(name: str, environ: Any) -> Iterator[bytes]:
    for _ in range(DOWNLOAD_CHUNKS):
        yield CHUNK


def endless(name: str, environ: Any) -> Iterator[bytes]:
    while True:
        yield CHUNK


def say(name: str, environ: Any) -> list[bytes]:
    return [name.encode()]


def fail(name: str, environ: Any) -> list[bytes]:
    if name == "v2":
        raise Broken
    return say(name, environ)


def upload(name: str, environ: Any) -> list[bytes]:
    source = environ["wsgi.input"]
    size, left = 0, int(environ.get("CONTENT_LENGTH") or 1 << 40)
    while left and (data := source.read(min(left, 65_536))):
        size += len(data)
        left -= len(data)
    return [str(size).encode()]


def upload_fail(name: str, environ: Any) -> list[bytes]:
    (size,) = upload(name, environ)
    return [fail(name, environ)[0] + b" " + size]


def in_a_file(name: str, environ: Any) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the server
    file.write(FILE)
    file.seek(0)
    return environ["wsgi.file_wrapper"](file, 65_536)


def tell_counts(name: str, environ: Any) -> list[bytes]:
    return [counts()]


ROUTES: dict[str, Callable[[str, Any], Any]] = {
    "/counts": tell_counts,
    "/download": download,
    "/endless": endless,
    "/fail": fail,
    "/file": in_a_file,
    "/upload": upload,
    "/upload-fail": upload_fail,
}
SIZES = {"/download": len(CHUNK) * DOWNLOAD_CHUNKS, "/file": len(FILE)}


def version(name: str) -> Callable[[Any, Any], Any]:
    def app(environ: Any, start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        body = ROUTES.get(path, say)(name, environ)
        size = len(body[0]) if type(body) is list else SIZES.get(path)
        headers = [("Content-Type", "text/plain")]
        start_response("200 OK", headers if size is None else [*headers, ("Content-Length", str(size))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else body

    return app


app = wsgi.CanaryMiddleware(wsgi.apps(version("v1"), version("v2")), canary=canary)
