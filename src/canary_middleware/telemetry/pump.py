"""
A daemon thread that hands telemetry over, so that no request and no shutdown ever waits for a collector.

The SDK's own processors export inside ``force_flush`` and ``shutdown`` and pay no attention to their timeouts: with the
collector away those calls take 35 s and more. Here the caller only waits for the thread, and no longer than it likes.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry import context as otel_context

from .._troubles import logger

if TYPE_CHECKING:
    from collections.abc import Callable

# The key by which every instrumentation of an HTTP or gRPC client knows that an exporter is calling.
_SUPPRESS: Final = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")


class Line(Protocol):
    """A connection to a collector."""

    def __call__(self, items: Any, /) -> bool:
        """Send *items* (spans, log records or metrics of whichever SDK); whether they were taken."""
        ...

    def open(self) -> None: ...

    def close(self) -> None: ...


class Pump:
    """
    Calls *work* every *interval_s* and whenever it is asked to. *work* runs in one thread only and may block.

    Args:
        name: of the thread.
        line: opened by the thread before anything else, and closed by it in the end.
        work: hands over; says whether everything was taken.
        interval_s: seconds between two calls.
    """

    def __init__(self, name: str, line: Line, work: Callable[[], bool], interval_s: float) -> None:
        self._name = name
        self._line = line
        self._work = work
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._asked = 0
        self._done = 0
        self._succeeded = True
        self._is_closed = False
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def ask(self) -> int:
        """Let *work* run once more, soon; returns a ticket for ``wait``."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def wait(self, ticket: int, deadline: float) -> bool:
        """Whether *work* has succeeded since ``ask`` gave *ticket*; waits until *deadline* (``time.monotonic``)."""
        with self._changed:
            is_done = self._changed.wait_for(lambda: self._done >= ticket, max(0.0, deadline - time.monotonic()))
            return is_done and self._succeeded

    def close(self) -> None:
        """Run *work* no more. Does not wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        # The kernel gives a signal to any thread that takes it. uWSGI ends the process in its handler, and in a thread
        # of ours nothing would be handed over any more. Threads that exporters start inherit this.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        otel_context.attach(otel_context.set_value(_SUPPRESS, True))
        # Now, not at the first export: that may be the last one, when the interpreter starts no more threads.
        self._guarded(self._line.open)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._asked > self._done, self._interval_s)
                if self._is_closed:
                    break
                ticket = self._asked
            succeeded = self._guarded(self._work) is True
            with self._changed:
                self._done = ticket
                self._succeeded = succeeded
                self._changed.notify_all()
        self._guarded(self._line.close)

    def _guarded(self, step: Callable[[], object]) -> object:
        try:
            return step()
        except Exception:  # noqa: BLE001 - exporters raise what their transports raise
            logger().exception("%s could not hand telemetry over; it goes on trying", self._name)
            return False


class Batch:
    """
    Collects items and exports them in batches from a thread of its own.

    Args:
        line: takes lists of items.
        capacity: items kept while the collector is away; the rest is dropped, with one warning.
        size: most items in one go, and how many wake the thread early.
        delay_s: seconds between two exports.
    """

    def __init__(self, name: str, line: Line, *, capacity: int, size: int, delay_s: float) -> None:
        self._name = name
        self._export = line
        self._capacity = capacity
        self._size = size
        # Appending to and popping from a deque are atomic.
        self._items: deque[object] = deque()
        self._is_waking = False
        self._has_warned = False
        self.pump: Final = Pump(name, line, self._work, delay_s)

    def put(self, item: object) -> None:
        """Queue *item*; never waits."""
        waiting = len(self._items)
        if waiting >= self._capacity:
            self._warn()
            return
        self._items.append(item)
        if waiting + 1 >= self._size and not self._is_waking:
            self._is_waking = True
            self.pump.ask()

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger().warning(
                "%s holds %d items that the collector has not taken; new ones are dropped", self._name, self._capacity
            )

    def _work(self) -> bool:
        self._is_waking = False
        items = self._items
        # What was there at the start: others go on adding, and a flush must come to an end.
        remaining = len(items)
        succeeded = True
        while remaining > 0:
            batch = [items.popleft() for _ in range(min(remaining, self._size))]
            remaining -= len(batch)
            succeeded = self._export(batch) and succeeded
        return succeeded
