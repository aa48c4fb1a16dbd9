"""gunicorn configuration of the harness: each worker says when it can be spoken to, and told to stop."""

from __future__ import annotations

from typing import Any

MARK = "harness: worker ready"


def post_worker_init(worker: Any) -> None:
    """Called with the app loaded and the signal handlers in place; a SIGTERM before that would be lost."""
    print(MARK, flush=True)
