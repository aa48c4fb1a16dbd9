"""``python -m tests.support.run_wsgiref module:app PORT``: the standard library's WSGI server, stopped by SIGTERM."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server


class _Handler(WSGIRequestHandler):
    # Idle connections (a readiness check) must not hold up the only thread.
    timeout = 5


def main(target: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then return, so that atexit handlers run."""
    module, _, name = target.partition(":")
    app = getattr(importlib.import_module(module), name or "application")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with make_server("127.0.0.1", port, app, handler_class=_Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        stop.wait()
        server.shutdown()
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
