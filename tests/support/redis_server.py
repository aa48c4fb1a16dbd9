"""
A real redis-server of a test's own: on a free port, in a directory of its own, gone with the test.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .needs import need
from .wait import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


def free_port() -> int:
    """A port that nobody listens at now. A cluster's bus is 10,000 above it, below those that clients are given."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randint(11_000, 22_000)))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port


class RedisServer:
    """
    Used as a context manager; ``url`` is where a store finds it.

    Args:
        password: what clients must say.
        is_kept: it writes every command to its disk, and has it again after ``stop`` and ``start``.
        port: by default a free one.
        config: its configuration file; a sentinel needs one.
        arguments: further ones of redis-server.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        is_kept: bool = False,
        port: int | None = None,
        config: str | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        need("redis-server", "redis-server")
        self.port = port or free_port()
        self._config = [config] if config else []
        self.password = password
        self._is_kept = is_kept
        self._arguments = arguments
        self._directory = Path(tempfile.mkdtemp(prefix="canary-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            "redis-server",
            *self._config,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
        ]
        command += [str(self._directory), *self._arguments, *(["--appendonly", "yes"] if self._is_kept else [])]
        if self.password:
            command += ["--requirepass", self.password]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._answers, message=lambda: (self._directory / "log").read_text()[-2000:])

    def _answers(self) -> bool:
        # An error is an answer too: it may want a password. While it loads its data it says so.
        try:
            answer = self.command("PING")
        except OSError:
            return False
        return answer.startswith(("+PONG", "-NOAUTH"))

    def command(self, *words: str) -> str:
        """The first bytes of the answer to one command, as Redis sends it (with the password, where it has one)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self.password and words != ("PING",):
                connection.sendall(_encoded("AUTH", self.password))
                connection.recv(100)
            connection.sendall(_encoded(*words))
            return connection.recv(65536).decode()

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
            process.wait(10)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, until ``thaw``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart_empty(self) -> None:
        """It dies, and comes back at the same port having forgotten everything."""
        self.kill()
        for path in self._directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        self.start()

    def commands_processed(self) -> int:
        """How many commands it has carried out since it started, also by scripts."""
        (line,) = [line for line in self.command("INFO", "stats").splitlines() if line.startswith("total_commands_pro")]
        return int(line.partition(":")[2])


def _encoded(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
