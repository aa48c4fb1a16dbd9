"""What a version does with a request, said once for all frameworks; each driver makes a view of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as a version's code sees it."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer; with ``chunks`` it is streamed."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/plain"),)
    chunks: Callable[[], Iterator[bytes]] | None = None


Behaviour = Callable[[Call], Reply]


class Broken(RuntimeError):
    """What a failing version raises."""


def says(text: str, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Behaviour:
    """Answers *text*."""
    return lambda call: Reply(status=status, body=text.encode(), headers=(("Content-Type", "text/plain"), *headers))


def echoes(name: str) -> Behaviour:
    """Answers its name, the method and the body it got."""
    return lambda call: Reply(body=f"{name} {call.method} ".encode() + call.body)


def raises(call: Call) -> Reply:
    """Fails before it answers."""
    raise Broken("v2 is broken")


def streams(*chunks: bytes, then: Exception | None = None) -> Behaviour:
    """Answers in *chunks*; fails with *then* behind the last."""

    def produce() -> Iterator[bytes]:
        yield from chunks
        if then is not None:
            raise then

    return lambda call: Reply(chunks=produce)


@dataclass(slots=True, kw_only=True)
class Answer:
    """What the client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    error: BaseException | None = None
    chunks: list[bytes] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """All values of *name*, joined; None without any."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def text(self) -> str:
        return self.body.decode()
