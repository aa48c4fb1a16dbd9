"""
The users: real HTTP requests over parallel connections, a few steps each, and what came back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.client import Response

CONNECTIONS: Final = 24
_TOPICS: Final = ("", "jazz", "chess", "trails")
_RECOMMEND: Final = "/api/v2/recommend"
_CONVERSATIONS: Final = "/api/v2/conversations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    What a user saw of one request.

    Attributes:
        version: what the response header says, empty where it is missing.
        begun: when the request left, in seconds of ``time.monotonic``.
    """

    user: str
    status: int
    version: str
    is_fallback: bool
    begun: float = 0.0

    @property
    def is_failed(self) -> bool:
        """Whether it was anything but a success."""
        return not 200 <= self.status < 300


@dataclass(slots=True)
class Visit:
    """One user and a connection to use; the steps below are what users do."""

    user: str
    client: Client
    answers: list[Answer] = field(default_factory=list)

    def post(self, path: str, **body: Any) -> Any:
        begun = time.monotonic()
        return self._note(self.client.post(path, {"user_id": self.user, **body}), begun)

    def get(self, path: str) -> Any:
        begun = time.monotonic()
        return self._note(self.client.get(path, x_user_id=self.user), begun)

    def _note(self, response: Response, begun: float) -> Any:
        answer = Answer(
            user=self.user,
            status=response.status,
            version=response.header("x-canary-version") or "",
            is_fallback=response.header("x-canary-fallback") is not None,
            begun=begun,
        )
        self.answers.append(answer)
        return {} if answer.is_failed else response.json()


def browse(visit: Visit) -> None:
    """Look for something, compare two finds, look again."""
    found = visit.post(f"{_RECOMMEND}/personalized", query=_TOPICS[int(visit.user[-4:]) % len(_TOPICS)]).get(
        "items", []
    )
    visit.post(f"{_RECOMMEND}/compare", items=[*found[:3], "jazz-001", "chess-001"])
    visit.post(f"{_RECOMMEND}/personalized", query="jazz", limit=10)


def talk(visit: Visit) -> None:
    """Start a conversation, say something, read it again."""
    session = visit.post(f"{_CONVERSATIONS}/start").get("session_id", "none")
    visit.post(f"{_CONVERSATIONS}/{session}/turn", text="something about trails, please")
    visit.get(f"{_CONVERSATIONS}/{session}")


def leave(visit: Visit) -> None:
    """Start a conversation, list all, close it."""
    session = visit.post(f"{_CONVERSATIONS}/start").get("session_id", "none")
    visit.get(f"{_CONVERSATIONS}?user_id={visit.user}")
    visit.post(f"{_CONVERSATIONS}/{session}/close")


def glance(visit: Visit) -> None:
    """One GET: what fallback may serve a second time."""
    visit.get(f"{_CONVERSATIONS}?user_id={visit.user}")


def users(count: int) -> list[str]:
    """*count* user ids, the same in every run."""
    return [f"user-{number:04}" for number in range(1, count + 1)]


class Traffic:
    """
    Users on their way: *visitors* are pairs of a user and what that user does, served by CONNECTIONS threads.

    Args:
        is_endless: who has been comes again, until the block ends.
    Attributes:
        answers: what has come back so far; appended to by the threads.
    """

    def __init__(
        self, url: str, visitors: Sequence[tuple[str, Callable[[Visit], None]]], *, is_endless: bool = False
    ) -> None:
        self.answers: list[Answer] = []
        self._is_endless = is_endless
        self._url = url
        self._waiting = deque(visitors)
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(CONNECTIONS)]

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Traffic flows inside the block, which may wait with ``join``; leaving it stops what is left."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()

    def join(self, timeout_s: float) -> bool:
        """
        Wait at most *timeout_s* seconds; whether all users are done.

        Raises:
            the first error of any connection.
        """
        alive = [thread for thread in self._threads if thread.is_alive()]
        if alive:
            alive[0].join(timeout_s)
        if self._failure is not None:
            raise self._failure
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        try:
            with Client(self._url) as client:
                while not self._stopped.is_set():
                    try:
                        user, journey = self._waiting.popleft()
                    except IndexError:
                        return
                    visit = Visit(user, client, self.answers)
                    journey(visit)
                    if self._is_endless:
                        self._waiting.append((user, journey))
        except Exception as error:  # noqa: BLE001 - told by join, in the thread that can act on it
            self._failure = error
            self._stopped.set()
