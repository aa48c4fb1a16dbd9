"""
Two versions whose rollouts live in the store that CANARY_STORE names, as WSGI and as ASGI.

Each answers its name and its process id, in ten bytes. ROLLOUTS in the environment says how many rollouts there are:
one is ``shop`` on every path, more are ``shop0`` on ``/0``, ``shop1`` on ``/1`` and so on.
CLOCK names a file that holds how many seconds this process's wall clock is ahead, as a C double.
POWERLESS takes from root what no service should have: the right to write what it may not.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def set_the_clock_by(path: str) -> None:
    """From now on ``time.time`` goes by what stands in *path*; whoever changes that sets the clock of every process."""
    real = time.time
    with Path(path).open("rb") as file:
        shift = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    time.time = lambda: real() + struct.unpack_from("d", shift)[0]


def give_up_capabilities() -> None:
    """From now on file modes hold for this process too, whoever runs it: capset(2) with none."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(version_3, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if "POWERLESS" in os.environ:
    give_up_capabilities()
# Before anything of ours is imported: clocks are taken as default arguments.
if "CLOCK" in os.environ:
    set_the_clock_by(os.environ["CLOCK"])

from canary_middleware import Canary, asgi, by_header, wsgi  # noqa: E402

NUMBER = int(os.environ.get("ROLLOUTS", "1"))
KEY = {"key": [by_header("x-user-id")]}
canary = (
    Canary("shop", **KEY)  # type: ignore[arg-type]
    if NUMBER == 1
    else Canary.load({"rollout": {f"shop{n}": {**KEY, "endpoints": [f"GET /{n}"]} for n in range(NUMBER)}})
)


def answer(version: str) -> bytes:
    return f"{version} {os.getpid():>7}".encode()


def wsgi_version(version: str) -> Callable[[Any, Any], list[bytes]]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])
        return [answer(version)]

    return app


def asgi_version(version: str) -> Callable[[Any, Any, Any], Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer(version)})

    return app


asgi_app = asgi.CanaryMiddleware(asgi.apps(asgi_version("v1"), asgi_version("v2")), canary=canary)
_covered = wsgi.CanaryMiddleware(wsgi.apps(wsgi_version("v1"), wsgi_version("v2")), canary=canary)


def wsgi_app(environ: Any, start_response: Any) -> Any:
    """The same; ``POST /set/30`` has this worker write to the store."""
    if environ["REQUEST_METHOD"] != "POST":
        return _covered(environ, start_response)
    canary.set_weight(float(environ["PATH_INFO"].rpartition("/")[2]), actor=f"worker {os.getpid()}")
    start_response("204 No Content", [])
    return []
