"""
One request from decision to outcome. It is fed with events, ends exactly once, and does no I/O.

The clock is handed in by whoever makes it; this file knows no server, framework or backend.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast, overload

if TYPE_CHECKING:
    from collections.abc import Callable

    from .assignment.policy import Door
    from .lifecycle.rollout import Assignment, Variant

UNAVAILABLE: Final = frozenset({500, 502, 503, 504})
"""Statuses of a canary that stable may answer instead; 501 and 505 to 511 say something about the request."""


class Failure:
    """Why a canary's answer was not given to the client: its status (500 where it raised) and ``error.type``."""

    __slots__ = ("error_type", "exception", "status")

    def __init__(self, status: int, error_type: str, exception: BaseException | None = None) -> None:
        self.status = status
        self.error_type = error_type
        self.exception = exception


T = TypeVar("T")


class Rare(Generic[T]):
    """
    An attribute that few requests set; setting it marks the exchange odd.

    What an ordinary request needs is then one look at ``odd`` instead of one at each of these.
    """

    __slots__ = ("_default", "_name")

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, exchange: None, owner: type) -> Rare[T]: ...

    @overload
    def __get__(self, exchange: Exchange, owner: type) -> T: ...

    def __get__(self, exchange: Exchange | None, owner: type) -> Rare[T] | T:
        if exchange is None:
            return self
        # Not the object's own __dict__: making one slows every other access to the object down.
        values = exchange.odd
        return self._default if values is None else cast("T", values.get(self._name, self._default))

    def __set__(self, exchange: Exchange, value: T) -> None:
        if exchange.odd is None:
            exchange.odd = {self._name: value}
        else:
            exchange.odd[self._name] = value


class Exchange:
    """
    A covered request.

    The front door sets ``status``, ``route`` and ``error_type`` as it learns them and calls ``finish`` at the earliest
    of last body byte, ``close()`` or exception; a second call does nothing.

    Attributes:
        assignment: what serves this request now; becomes stable's when stable takes over.
        variant: what the request is counted under; stays the canary's when stable takes over.
        method: HTTP method as sent, or ``WEBSOCKET``.
        started: reading of the clock at the decision, in seconds.
        status: HTTP status as an int, 0 until known.
        route: route template without values, or None.
        duration: seconds; final once ended.
        span: the recorder's own, or None.
        odd: those of the following that were set, by name; None for an ordinary request.
        error_type: class name of the exception, or None.
        failure: set when stable answered for the canary.
        missed: why stable could not (``"started"``, ``"body"``), or None.
        is_aborted: the client left before the last byte.
        new_id: anonymous id made for this request, to be set as a cookie; None otherwise.
        answered_at: reading of the clock at a websocket's handshake; its duration ends there, its outcome later.
        release: gives back what the request holds, such as the recording of its body; called at the end.
    """

    error_type: Rare[str | None] = Rare(None)
    failure: Rare[Failure | None] = Rare(None)
    missed: Rare[str | None] = Rare(None)
    is_aborted: Rare[bool] = Rare(False)
    new_id: Rare[str | None] = Rare(None)
    answered_at: Rare[float | None] = Rare(None)
    release: Rare[Callable[[], object] | None] = Rare(None)
    _decided: Rare[Assignment | None] = Rare(None)

    __slots__ = (
        "assignment",
        "door",
        "duration",
        "has_ended",
        "method",
        "odd",
        "route",
        "span",
        "started",
        "status",
        "variant",
    )

    assignment: Assignment
    variant: Variant
    door: Door
    started: float
    duration: float

    def __init__(self, method: str) -> None:
        self.method = method
        self.status = 0
        self.route: str | None = None
        self.span: object = None
        self.has_ended = False
        self.odd: dict[str, object] | None = None

    def admit(self, assignment: Assignment, door: Door, started: float) -> None:
        """The decision has fallen: *assignment*, by *door*, when the clock read *started*."""
        self.assignment = assignment
        self.variant = assignment[0]
        self.door = door
        self.started = started

    @property
    def decided(self) -> Assignment:
        """The assignment it came in with."""
        return self.assignment if self._decided is None else self._decided

    def finish(self) -> None:
        """End the exchange: the first call counts it, later ones do nothing. Never raises."""
        if not self.has_ended:
            self.has_ended = True
            self.door.end(self)
            if self.odd is not None and self.release is not None:
                self.release()

    def raised(self, error: BaseException) -> None:
        """The app raised *error*: the server will answer 500, or cut the stream short."""
        if self.has_ended:
            return
        self.error_type = type(error).__qualname__
        if self.status < 500:
            self.status = 500
        self.finish()

    def may_fall_back(self, *, has_started: bool, is_body_over: bool) -> bool:
        """
        Whether stable can still take over a canary that failed; where not, ``missed`` says why.

        Args:
            has_started: a byte of the canary's answer is out, or may be.
            is_body_over: the request's body was too long to keep for stable.
        """
        if has_started:
            self.missed = "started"
        elif is_body_over:
            self.missed = "body"
        else:
            return True
        return False

    def fall_back(self, failure: Failure) -> None:
        """The canary failed: from here on stable serves, and the request counts as the canary's failure."""
        self.failure = failure
        self.status = 0
        self.error_type = None
        self._decided = self.assignment
        self.assignment = self.door.fallback

    def unserved(self, error: Exception) -> None:
        """The version has nothing that serves it: stable does, and the operator is told once."""
        self.door.complain("dispatch", error, "stable serves such requests")
        self._decided = self.assignment
        self.assignment = self.door.error

    def aborted(self) -> None:
        """The client left: neither success nor failure."""
        if not self.has_ended:
            self.is_aborted = True
            self.finish()

    @property
    def is_failed(self) -> bool:
        """Whether the version failed the request: an exception or a status from 500 on. Not meaningful if aborted."""
        return self.failure is not None or self.error_type is not None or self.status >= 500

    @property
    def outcome_error(self) -> str | None:
        """``error.type`` of a failed request: the exception's class, else the status as text; None otherwise."""
        if self.failure is not None:
            return self.failure.error_type
        if self.error_type is not None:
            return self.error_type
        return str(self.status) if self.status >= 500 else None

    @property
    def outcome_status(self) -> int:
        """The status of the version that is counted: the canary's own where stable answered for it."""
        return self.status if self.failure is None else self.failure.status


class Uncovered:
    """What ``current()`` finds in a request that no rollout covers: stable, uncounted and untagged."""

    __slots__ = ("assignment",)

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment


# A plain variable and not an OpenTelemetry context key: instrumentations attach a fresh Context and would drop it.
active: ContextVar[Exchange | Uncovered | None] = ContextVar("canary_active", default=None)
