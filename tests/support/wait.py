"""
Waiting with a deadline: a condition is asked again until it holds, and says what it saw when it never does.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Short enough not to slow a test down, long enough not to take the CPU from the server that is waited for.
_PAUSE_S = 0.01


def eventually(
    condition: Callable[[], T],
    *,
    timeout: float = 10.0,
    interval: float = _PAUSE_S,
    message: str | Callable[[], Any] = "",
) -> T:
    """
    The first true value of *condition*, asked until *timeout*.

    Args:
        condition: called from this thread. An AssertionError from it means "not yet".
        timeout: seconds until it is given up. The condition is asked at least once.
        interval: seconds between two questions.
        message: what to say on failure, or a function that tells it then.
    Raises:
        AssertionError: the deadline passed; names the last value or holds the last AssertionError as its cause.
    """
    deadline = time.monotonic() + timeout
    idle = threading.Event()
    failure: AssertionError | None = None
    value: T | None = None
    while True:
        try:
            value = condition()
            failure = None
        except AssertionError as error:
            failure = error
        else:
            if value:
                return value
        if time.monotonic() >= deadline:
            break
        idle.wait(interval)
    said = message() if callable(message) else message
    seen = failure if failure is not None else f"last value {value!r}"
    raise AssertionError(f"not within {timeout:g} s: {seen}{f'; {said}' if said else ''}") from failure
