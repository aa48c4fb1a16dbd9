"""
What others implement: the sockets between the core and the world. Nothing here does anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence

    from .assignment.endpoints import Match
    from .assignment.identity import Source
    from .assignment.policy import Door
    from .exchange import Exchange
    from .lifecycle.records import Event, Lease, Worker
    from .lifecycle.rollout import Assignment

    # Any: the ASGI specification puts anything in a scope or a message.
    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
    Environ = dict[str, Any]  # PEP 3333 puts anything there
    StartResponse = Callable[..., Callable[[bytes], object]]
    WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class RequestHead(Protocol):
    """
    One request as the decision sees it. A front door wraps its own request in one and parses nothing in advance.

    Text is decoded the same way in both colours: UTF-8, and Latin-1 where that fails. Absent is None; a value that is
    there but empty is ``""``. No method raises on what a client sent.
    """

    match: Match[Any] | None
    """The endpoint template that covers the request; set by ``Canary.begin``."""

    new_id: str | None
    """The anonymous id that was made for this request; set by the decision."""

    resume: BodyNotRead | None
    """Where an earlier decision on this request left off to have the body read; None at first."""

    def exchange(self, assignment: Assignment, door: Door, started: float) -> Exchange:
        """The request's Exchange, decided so. A front door may be it itself."""
        ...

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str:
        """The decoded path below the mount point, beginning with ``/``."""
        ...

    @property
    def scheme(self) -> str: ...

    @property
    def app(self) -> object:
        """The framework's application object where the request names one, else what the middleware wraps."""
        ...

    @property
    def native(self) -> object:
        """The framework's own request object, for key functions and attributes of the app's making."""
        ...

    @property
    def peer(self) -> str | None:
        """The address at the other end of the connection, without port."""
        ...

    def header(self, name: str) -> str | None:
        """The header called *name* (lower case); several of that name joined by commas (RFC 9110 §5.3)."""
        ...

    def cookie(self, name: str) -> str | None: ...

    def query(self, name: str) -> str | None: ...

    def path_param(self, name: str) -> str | None:
        """What ``{name}`` of the matched endpoint template stood for."""
        ...

    def user(self) -> str | None:
        """The primary key of the framework's authenticated user."""
        ...

    def session(self, name: str | None) -> str | None:
        """One value of the framework's session, or its key where *name* is None."""
        ...

    def attribute(self, name: str) -> str | None:
        """Whatever else the app supplies for segment rules."""
        ...

    def body(self, cap: int) -> bytes | None:
        """
        The whole body where it is JSON and at most *cap* bytes long, else None.

        Raises BodyNotRead in a front door that can only read it by awaiting; that door reads it and asks again.
        """
        ...


class BodyNotRead(Exception):
    """
    A door that cannot block was asked for the body; it reads it, and asks again with this as the head's ``resume``.

    Attributes:
        cap: how much of the body is wanted, in bytes.
        asked: the sources that have answered already, and need not be asked (or complained of) a second time.
    """

    def __init__(self, cap: int) -> None:
        super().__init__(cap)
        self.cap = cap
        self.asked: tuple[Source, ...] = ()


class Store(Protocol):
    """
    Where rollouts live: shared by the processes of a host (SQLite) or of many (Redis). Synchronous; one per process.

    Every method may block and may raise StoreUnavailable, with the original error as its cause; none is called on the
    request path. Safe to call from several threads. After a fork it opens its own connection.
    """

    @property
    def url(self) -> str:
        """Where it is, without its password."""
        ...

    def read(self, known: int | None = None) -> tuple[int, Mapping[str, Mapping[str, Any]]] | None:
        """
        All rollouts' records (name → ``records.to_record``), with the store's generation.

        Args:
            known: the generation the caller has; where it is still current the answer is None, and cheap (it is asked
                four times a second). A store that was emptied has another generation.
        """
        ...

    def write(self, record: Mapping[str, Any], *, expect: int | None, event: Event, lease: Lease | None = None) -> None:
        """
        Put a rollout's record in place and append *event*, both or neither.

        Args:
            expect: the revision that must be in place now; None where the rollout must not exist yet.
            lease: what the writer must hold at this very moment; a holder that was paused past its end writes nothing.
        Raises:
            StaleRevision: another one is in place; says which, and who wrote it.
            LeaseLost: the lease has another holder or token, or none.
        """
        ...

    def history(self, rollout: str | None = None, limit: int = 100) -> Sequence[Event]:
        """The last events, newest first. Of each rollout at least the last 10,000 are kept."""
        ...

    def log(self, event: Event) -> None:
        """Append an event that changes nothing, such as a person's answer in a checklist."""
        ...

    def beat(self, worker: Worker) -> None:
        """*worker* lives and serves what it says; forgotten after a minute of silence. ``seen_s`` is the store's."""
        ...

    def leave(self, worker_id: str) -> None:
        """A worker has ended in good order."""
        ...

    def workers(self) -> Sequence[Worker]:
        """Those heard of within the last minute."""
        ...

    def now(self) -> float:
        """Unix seconds by the clock that ``seen_s`` and leases go by."""
        ...

    def add_counts(self, worker_id: str, sequence: int, window_s: int, counts: Mapping[str, Any]) -> None:
        """
        Add a worker's counts to the window that begins at Unix second *window_s*.

        A (worker, sequence) that was added before is ignored: a flush repeated after a lost answer counts once.
        *counts* is ``tallies.to_plain``: mergeable by adding numbers under equal keys. Windows older than an hour are
        rolled up into hours, hours expire after eight days.
        """
        ...

    def counts(self, since_s: int = 0) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """(window's beginning, merged counts) from *since_s* on, oldest first."""
        ...

    def acquire(self, name: str, holder: str, ttl_s: float) -> int | None:
        """
        Take or keep the lease called *name*; None while somebody else holds it.

        Returns:
            a fencing token: it grows with every change of holder, and stays while the holder stays.
        """
        ...

    def release(self, name: str, holder: str) -> None:
        """Give the lease back, if *holder* has it."""
        ...

    def keep(self, name: str, notes: Mapping[str, Any], *, lease: Lease | None = None) -> None:
        """
        Keep *notes* (plain data, some kilobytes) under *name* in place of what was there: whoever takes over goes on.

        Args:
            lease: as for ``write``.
        Raises:
            LeaseLost: as for ``write``; what was there stays.
        """
        ...

    def kept(self, name: str) -> Mapping[str, Any] | None:
        """What ``keep`` was last told under *name*; None where there is nothing, or not any longer."""
        ...

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        ...


class Recorder(Protocol):
    """Where a request's telemetry goes. Called on the request path: no I/O, no lock that a collection holds."""

    def begin(self, exchange: Exchange, head: RequestHead) -> None:
        """The request was assigned. May open a span and keep it in ``exchange.span``."""
        ...

    def attach(self, exchange: Exchange) -> object:
        """Make ``exchange.span`` current; called before each stretch of the app's code where a span of ours is open."""
        ...

    def detach(self, exchange: Exchange, token: object) -> None:
        """Undo ``attach``."""
        ...

    def fallback(self, exchange: Exchange) -> None:
        """The canary failed (``exchange.failure``) and stable is about to serve the same request."""
        ...

    def end(self, exchange: Exchange) -> None:
        """The exchange has ended; status, route, error and duration are final."""
        ...

    def trace_id(self, exchange: Exchange) -> str | None:
        """The exchange's trace as 32 hex digits, also after its end; None where it has none."""
        ...
