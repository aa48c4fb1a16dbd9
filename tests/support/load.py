"""
Traffic that goes on while something fails, and remembers every answer: connections that are kept open, several
requests at a time down each, sockets and bytes without a client library between.

The app must answer ten bytes: the version's two letters, a blank, its process id.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from .assignments import wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .assignments import Asked, InForce

_BODY: Final = 10
# So many times is a connection used: a new one may reach another worker.
_USES: Final = 20
_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Requests that went down one connection together, and their answers.

    Attributes:
        first: index of the first request; the others follow it in order.
        versions: of the answers, in order.
        pid: the process that answered.
    """

    first: int
    sent_s: float
    received_s: float
    versions: tuple[str, ...]
    pid: int


@dataclass(slots=True)
class Findings:
    """What a check found: how much was checked, and what was wrong."""

    checked: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    p99_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.checked} checked, {self.wrong.total()} wrong, p99 {self.p99_s:.3f} s, max {self.slowest_s:.3f} s"


class Ongoing:
    """
    Threads that send until it is left: a context manager.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.errors: list[BaseException] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send nothing more; what is under way is waited for."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._stopping.is_set()

    def send(self, number: int) -> None:
        """What thread *number* does, until it ``is_over``; what it raises is kept in ``errors``, and ends it."""
        raise NotImplementedError

    def _run(self, number: int) -> None:
        try:
            self.send(number)
        except BaseException as error:
            self.errors.append(error)


class Traffic(Ongoing):
    """
    Requests in bulk, and their answers, timed.

    Args:
        port: where the service listens, on loopback.
        asked: the requests, sent in this order, over and over.
        connections: how many at once.
        depth: requests in flight on each. Above one only where the server takes them so (uvicorn).
        may_lose: whether a connection may break under a request (a worker is killed); it is then sent again.
    """

    def __init__(
        self, port: int, asked: Sequence[Asked], *, connections: int = 4, depth: int = 16, may_lose: bool = False
    ) -> None:
        super().__init__(connections)
        self.asked = asked
        self.batches: list[Batch] = []
        self.resent = 0
        self._port = port
        self._depth = depth
        self._may_lose = may_lose
        self._connections = connections

    @property
    def answered(self) -> int:
        """How many requests have been answered so far."""
        return len(self.batches) * self._depth

    def pids_since(self, moment_s: float) -> set[int]:
        """The processes that have answered requests sent after *moment_s* (``time.monotonic``)."""
        return {batch.pid for batch in tuple(self.batches) if batch.sent_s >= moment_s}

    def check(self, in_force: Mapping[str, InForce]) -> Findings:
        """Every answer so far against the weights that were *in_force*, by rollout."""
        findings = Findings()
        took = sorted(batch.received_s - batch.sent_s for batch in self.batches)
        if took:
            findings.slowest_s, findings.p99_s = took[-1], took[int(len(took) * 0.99)]
        for batch in self.batches:
            allowed = {name: one.between(batch.sent_s, batch.received_s) for name, one in in_force.items()}
            for offset, version in enumerate(batch.versions):
                asked = self.asked[(batch.first + offset) % len(self.asked)]
                found = wrong(asked, version, allowed[asked.rollout])
                if found is not None:
                    findings.wrong[found] += 1
                findings.checked += 1
        return findings

    # -- one connection ---------------------------------------------------------------------------------------------

    def send(self, number: int) -> None:
        # Each begins elsewhere, so that all users are asked of soon.
        first = number * len(self.asked) // self._connections
        connection: socket.socket | None = None
        uses = 0
        try:
            while not self.is_over:
                if connection is None:
                    connection, uses = self._connected(), 0
                try:
                    self._batch(connection, first)
                except ConnectionError:
                    if not self._may_lose:
                        raise
                    self.resent += self._depth
                    uses = _USES
                else:
                    first = (first + self._depth) % len(self.asked)
                    uses += 1
                if uses >= _USES:
                    connection.close()
                    connection = None
        finally:
            if connection is not None:
                connection.close()

    def _connected(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _batch(self, connection: socket.socket, first: int) -> None:
        asked = [self.asked[(first + n) % len(self.asked)].data for n in range(self._depth)]
        sent_s = time.monotonic()
        connection.sendall(b"".join(asked))
        answers = _read(connection.recv, self._depth)
        received_s = time.monotonic()
        refused = [answer for answer in answers if not answer.startswith(b"200 ")]
        if refused:
            raise AssertionError(f"answered {refused[0][:300]!r}")
        versions = tuple(answer[-_BODY : -_BODY + 2].decode() for answer in answers)
        self.batches.append(Batch(first, sent_s, received_s, versions, int(answers[0][-7:])))


def _read(receive: Callable[[int], bytes], number: int) -> list[bytes]:
    """*number* whole answers, each from its status on."""
    data = b""
    while True:
        answers = data.split(b"HTTP/1.1 ")[1:]
        if len(answers) == number and len(answers[-1].partition(b"\r\n\r\n")[2]) == _BODY:
            return answers
        piece = receive(65_536)
        if not piece:
            raise ConnectionResetError(f"the connection ended after {max(0, len(answers) - 1)} of {number} answers")
        data += piece
