"""
Request bodies that are read twice: by us and the app, or by a canary that failed and then by stable.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPOOL_BYTES: Final = 64 * 1024
"""What a body may take of memory; the rest goes to a temporary file."""


class Tape:
    """
    What an app has read of a request's body, so that another can read it again.

    Args:
        cap: bytes; a longer body is not kept, and ``is_over`` says so.
    """

    __slots__ = ("_cap", "_file", "is_over", "size")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._file: IO[bytes] = io.BytesIO()
        self.size = 0
        self.is_over = False

    def record(self, data: bytes) -> None:
        """Keep *data*. Never raises: a full disk ends the recording, as a body over the cap does."""
        if self.is_over or not data:
            return
        before, self.size = self.size, self.size + len(data)
        if self.size > self._cap:
            self.drop()
            return
        try:
            if before <= SPOOL_BYTES < self.size:
                self._spool()
            self._file.write(data)
        except OSError:
            self.drop()

    def _spool(self) -> None:
        from tempfile import TemporaryFile

        on_disk = TemporaryFile()  # noqa: SIM115 - closed by drop(), or when the request is gone
        on_disk.write(self._file.getvalue())  # type: ignore[attr-defined]
        self._file = on_disk

    def drop(self) -> None:
        """Forget everything."""
        self.is_over = True
        self._file.close()

    def rewound(self) -> IO[bytes]:
        """The recording as a file, from its beginning. Only while not ``is_over``."""
        self._file.seek(0)
        return self._file


class _Input:
    """What a ``wsgi.input`` must offer (PEP 3333), over ``read`` and ``readline``; the rest is the original's."""

    def __init__(self, source: Any) -> None:  # Any: any server's input object
        self._source = source

    def read(self, size: int = -1, /) -> bytes:
        raise NotImplementedError  # pragma: no cover

    def readline(self, size: int = -1, /) -> bytes:
        raise NotImplementedError  # pragma: no cover

    def readlines(self, hint: int = -1, /) -> list[bytes]:
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    # Beyond PEP 3333, but io.TextIOWrapper and io.BufferedReader ask for them, and servers' files have them.

    def read1(self, size: int = -1, /) -> bytes:
        raise NotImplementedError  # pragma: no cover

    def readinto(self, buffer: Any, /) -> int:  # Any: a writable buffer
        return _put(buffer, self.read)

    def readinto1(self, buffer: Any, /) -> int:
        return _put(buffer, self.read1)

    def _source_read1(self, size: int) -> bytes:
        data: bytes = getattr(self._source, "read1", self._source.read)(size)
        return data

    def seekable(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        if name in _POSITIONED:
            raise AttributeError(name)
        return getattr(self._source, name)


def _put(buffer: Any, read: Callable[[int], bytes]) -> int:
    view = memoryview(buffer).cast("B")
    data = read(len(view))
    view[: len(data)] = data
    return len(data)


# They would go around what was read already.
_POSITIONED: Final = frozenset({"peek", "seek", "tell", "getvalue", "getbuffer"})


def _is_all(size: int | None) -> bool:
    """Whether a size asks for everything. PEP 3333 knows no None, but frameworks pass it on from file objects."""
    return size is None or size < 0


class Recording(_Input):
    """A server's input; what is read of it goes onto *tape* too."""

    def __init__(self, source: Any, tape: Tape) -> None:
        super().__init__(source)
        self._tape = tape

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = self._source.read() if _is_all(size) else self._source.read(size)
        self._tape.record(data)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        data = self._source_read1(size)
        self._tape.record(data)
        return data

    def readline(self, size: int = -1, /) -> bytes:
        data: bytes = self._source.readline() if _is_all(size) else self._source.readline(size)
        self._tape.record(data)
        return data

    def close(self) -> None:
        """Nothing: a text wrapper closes its buffer when it is collected, and stable may need this one."""


class Replay(_Input):
    """First what was read of a body already, then what the server still has of it."""

    def __init__(self, read_already: IO[bytes], source: Any) -> None:
        super().__init__(source)
        self._head: IO[bytes] | None = read_already

    def read(self, size: int = -1, /) -> bytes:
        if self._head is None:
            data: bytes = self._source.read() if _is_all(size) else self._source.read(size)
            return data
        if _is_all(size):
            head, self._head = self._head.read(), None
            return head + self._source.read()  # type: ignore[no-any-return]
        data = self._head.read(size)
        if len(data) == size:
            return data
        self._head = None
        return data + self._source.read(size - len(data))  # type: ignore[no-any-return]

    def read1(self, size: int = -1, /) -> bytes:
        if self._head is not None:
            data = self._head.read(size)
            if data or size == 0:
                return data
            self._head = None
        return self._source_read1(size)

    def readline(self, size: int = -1, /) -> bytes:
        limit = -1 if _is_all(size) else size
        if self._head is None:
            data: bytes = self._source.readline() if limit < 0 else self._source.readline(limit)
            return data
        data = self._head.readline(limit)
        if data.endswith(b"\n") or len(data) == limit:
            return data
        self._head = None
        rest: bytes = self._source.readline() if limit < 0 else self._source.readline(limit - len(data))
        return data + rest
