"""
ASGI lifespans: several apps' as one, and a moment at shutdown to hand over what was counted.
"""

from __future__ import annotations

import asyncio
import atexit
import signal
import threading
from typing import TYPE_CHECKING, Any

from .._troubles import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import FrameType

    from .._core.ports import Message, Receive, Scope, Send

    App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def with_farewell(app: App, scope: Scope, receive: Receive, send: Send, farewell: Callable[[], object]) -> None:
    """
    *app*'s lifespan as it is, exceptions and all, and *farewell* before its shutdown is reported complete.

    Where the app has none, *farewell* is called when the process ends, also where a server ends it by a signal.
    """
    has_spoken = False
    has_parted = False

    async def asked() -> Message:
        nonlocal has_spoken
        has_spoken = True
        return await receive()

    async def sent(message: Message) -> None:
        nonlocal has_spoken
        has_spoken = True
        if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await part()
        await send(message)

    async def part() -> None:
        nonlocal has_parted
        if not has_parted:
            has_parted = True
            await _in_thread(farewell)

    try:
        await app(scope, asked, sent)
    except Exception:
        if has_spoken:
            await part()  # a lifespan that breaks must not take the last interval with it
        raise
    finally:
        if not has_spoken:
            part_at_exit(farewell)


def part_at_exit(farewell: Callable[[], object]) -> None:
    """
    Call *farewell* when the interpreter ends, also where the server would end it by a signal before that.

    uvicorn handles SIGTERM itself and, once it has shut down, restores the handler it found and raises the signal
    again: the process dies without ``atexit``. So from the first SIGTERM on the signal is kept back in this thread:
    what is raised again waits until *farewell* has run, and then ends the process as it would have.
    """
    held: list[int] = []

    def part() -> None:
        farewell()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)

    atexit.register(part)
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        return
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before):
        return

    def chained(number: int, frame: FrameType | None) -> None:
        held.append(number)
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        before(number, frame)

    signal.signal(signal.SIGTERM, chained)


def _tell(who: str, error: Exception) -> None:
    """It may be an app without a lifespan, or one that cannot start: only its author can say."""
    logger().warning("%s raised before its lifespan began, and is served without one", who, exc_info=error)


async def _in_thread(function: Callable[[], object]) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # another event loop than asyncio's; the server is going down and may wait
        function()
        return
    await loop.run_in_executor(None, function)


class _One:
    """One version's lifespan, running as a task, spoken to through two queues."""

    def __init__(self, name: str, app: App, scope: Scope) -> None:
        self.name = name
        self.state: dict[str, Any] = {}
        self.is_supported = True
        self._to: asyncio.Queue[Message] = asyncio.Queue()
        self._from: asyncio.Queue[Message] = asyncio.Queue()
        own = {**scope, "state": self.state} if "state" in scope else dict(scope)
        self._task = asyncio.ensure_future(self._run(app, own))

    async def _run(self, app: App, scope: Scope) -> None:
        has_asked = False

        async def receive() -> Message:
            nonlocal has_asked
            has_asked = True
            return await self._to.get()

        try:
            await app(scope, receive, self._from.put)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - told the server in the protocol's words
            if has_asked:
                await self._from.put({"type": "raised", "message": f"{type(error).__qualname__}: {error}"})
                return
            if isinstance(error, Exception):
                _tell(f"version {self.name}", error)
        await self._from.put({"type": "returned"})

    async def ask(self, kind: str) -> str | None:
        """Send *kind*; None once it is complete, else what went wrong."""
        if not self.is_supported:
            return None
        await self._to.put({"type": kind})
        answer = await self._from.get()
        if answer["type"] == kind + ".complete":
            return None
        if answer["type"] == "returned":
            self.is_supported = False
            return None
        return str(answer.get("message") or "failed without a message")

    async def leave(self) -> None:
        """Do not wait for an app that ignores its shutdown."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def together(
    apps: Mapping[str, App], states: dict[str, dict[str, Any]], scope: Scope, receive: Receive, send: Send
) -> None:
    """
    The lifespans of several *apps* as one: all start, or the server is told which did not and why.

    Args:
        apps: version → app.
        states: filled with each version's lifespan state, for its own requests only.
    """
    await receive()
    ones = [_One(name, app, scope) for name, app in apps.items()]
    try:
        if await _all(ones, "lifespan.startup", send):
            for one in ones:
                states[one.name] = one.state
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if await _all(ones, "lifespan.shutdown", send):
                await send({"type": "lifespan.shutdown.complete"})
    finally:
        for one in ones:
            await one.leave()


async def _all(ones: list[_One], kind: str, send: Send) -> bool:
    failures = await asyncio.gather(*(one.ask(kind) for one in ones))
    failed = [f"{one.name}: {why}" for one, why in zip(ones, failures, strict=True) if why is not None]
    if not failed:
        return True
    if kind == "lifespan.startup":
        # Those that did start must stop again, or they leave connections and tasks behind.
        started = [one for one, why in zip(ones, failures, strict=True) if why is None]
        await asyncio.gather(*(one.ask("lifespan.shutdown") for one in started))
    await send({"type": kind + ".failed", "message": "; ".join(failed)})
    return False
