"""
The last state a process knew, on disk: a worker that starts while the store is away serves the last weights.

Replaced atomically, with a checksum and its age; anything wrong with it means that nothing is known.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# No link of somebody else's making is followed, and a pipe that has nobody at its other end is not waited for.
_OPEN: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class LastKnown(NamedTuple):
    """Records by rollout, and the Unix second they were current at."""

    records: Mapping[str, Mapping[str, Any]]
    saved_s: float


class LastKnownFile:
    """
    One file per store and set of rollouts.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, url: str, rollouts: Iterable[str], directory: str | None = None) -> LastKnownFile:
        """
        The file for *url*, in *directory*, CANARY_STATE_DIR, or a folder of the user's own below the temporary one.

        A container keeps its state across restarts where that directory is a volume.
        """
        directory = directory or os.environ.get("CANARY_STATE_DIR")
        name = blake2b("\0".join([url, *sorted(rollouts)]).encode(), digest_size=8).hexdigest()
        folder = Path(directory) if directory else Path(tempfile.gettempdir()) / f"canary-middleware-{os.getuid()}"
        return cls(folder / f"{name}.json")

    def save(self, records: Mapping[str, Mapping[str, Any]], now_s: float) -> None:
        """
        Replace what is there.

        Raises:
            OSError: it could not be written, and what was there is gone too: it may hold a weight that has been
                rolled back since.
        """
        try:
            self._replace(records, now_s)
        except BaseException:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            raise

    def _replace(self, records: Mapping[str, Mapping[str, Any]], now_s: float) -> None:
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not sorted: the order of several canaries decides who gets which.
        payload = json.dumps({"saved_s": now_s, "records": records}, separators=(",", ":"))
        text = json.dumps({"checksum": _checksum(payload), "payload": payload})
        # A name of our own, so that two workers never write into one file.
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".last-known-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def load(self) -> LastKnown | None:
        """What was saved, or None where there is nothing, nothing whole, or nothing of ours."""
        try:
            handle = os.open(self.path, _OPEN)
            with os.fdopen(handle, encoding="utf-8") as file:
                # In a shared temporary directory anybody may have put it there.
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                    return None
                outer = json.load(file)
            payload = outer["payload"]
            if outer["checksum"] != _checksum(payload):
                return None
            inner = json.loads(payload)
            records: Mapping[str, Mapping[str, Any]] = inner["records"]
            if not all(isinstance(record, dict) for record in records.values()):
                return None
            return LastKnown(records, float(inner["saved_s"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None


def _checksum(payload: str) -> str:
    return blake2b(payload.encode(), digest_size=16).hexdigest()
