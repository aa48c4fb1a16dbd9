"""
Real servers for an import string ``module:app``, each a process of its own on a free loopback port.

    with servers.gunicorn("examples.flask_app:app", workers=2, preload=True, env=otlp.env()) as server:
        ...Client(server.url)...
        server.stop()                    # SIGTERM, as in production; server.logs() says what it printed

Leaving the ``with`` stops the server too, and kills whatever its process group still holds.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from . import gunicorn_ready
from .wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

ROOT: Final = Path(__file__).resolve().parents[2]
HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 15.0

# What a developer's shell may hold must not reach the servers under test.
_FOREIGN = ("OTEL_", "CANARY_", "DJANGO_", "FLASK_", "GUNICORN_", "UVICORN_", "UWSGI_")
_LOG_TAIL = 4_000


class ServerFailed(RuntimeError):
    """The server did not start or did not stop; the message ends with what it printed."""


class Server:
    """A running server process. Made by the context managers of this module."""

    def __init__(
        self, command: Sequence[str], port: int, *, env: Mapping[str, str] | None, cwd: str | Path | None
    ) -> None:
        self.port: Final = port
        self.url: Final = f"http://{HOST}:{port}"
        self._log: IO[bytes] = tempfile.TemporaryFile(prefix="server-", suffix=".log")  # noqa: SIM115 - closed by close()
        self._text: str | None = None
        # A session of its own: its whole group can be killed without touching the test run.
        self.process: Final = subprocess.Popen(
            list(command),
            env=_environment(env or {}, Path(cwd or ROOT)),
            cwd=cwd or ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process that was started: the master where there are workers."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; after ``stop`` 0, or minus the signal."""
        return self.process.returncode

    def logs(self) -> str:
        """All that the server and its workers printed so far."""
        if self._text is not None:
            return self._text
        size = os.fstat(self._log.fileno()).st_size
        # pread: the processes write through the same file description, whose position is theirs.
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def worker_pids(self) -> list[int]:
        """The children of the started process, or itself where it has none."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if not _is_helper(pid)] or [self.pid]

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """
        Ask with SIGTERM, as an orchestrator does, and wait for the end.

        Returns:
            the exit code; minus the number where a signal ended it.
        Raises:
            ServerFailed: it was still there after *timeout* seconds and has been killed.
        """
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> int:
        """SIGKILL to the whole group: nothing is flushed."""
        self._signal_group()
        return self.process.wait()

    def close(self) -> None:
        """Leave nothing behind. Safe to call again."""
        if self.process.returncode is None:
            self._signal_group()
            self.process.wait()
        if self._text is None:
            self._text = self.logs()
            self._log.close()

    def _end(self, number: signal.Signals, timeout: float) -> int:
        if self.process.returncode is not None:
            return self.process.returncode
        os.kill(self.pid, number)
        try:
            eventually(self._has_exited, timeout=timeout)
        except AssertionError:
            self.close()
            raise ServerFailed(f"still running {timeout:g} s after {number.name}\n{self._tail()}") from None
        self._signal_group()
        return self.process.wait()

    def _has_exited(self) -> bool:
        # Not reaped yet: as long as the zombie is there, its process group cannot be anybody else's.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal_group(self) -> None:
        if self.process.returncode is not None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            # macOS answers so for a group of zombies.
            pass

    def _wait_ready(self, mark: str, times: int, timeout: float) -> None:
        def ready() -> bool:
            if self._has_exited():
                self.close()
                raise ServerFailed(f"ended with {self.returncode} before it listened\n{self._tail()}")
            return accepts(self.port) and self.logs().count(mark) >= times

        try:
            eventually(ready, timeout=timeout, interval=0.02)
        except AssertionError:
            self.close()
            raise ServerFailed(f"did not listen within {timeout:g} s\n{self._tail()}") from None

    def _tail(self) -> str:
        return self.logs()[-_LOG_TAIL:]


@contextmanager
def start(
    command: Callable[[int], Sequence[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = START_TIMEOUT_S,
    mark: str = "",
    times: int = 0,
) -> Iterator[Server]:
    """
    Any server: *command* makes the argument list for a port.

    Args:
        env: added to this process's environment, which is passed on without OTEL_*, CANARY_* and framework variables.
        cwd: the working directory, and the first place for imports; by default the checkout.
        timeout: seconds until it must listen. Listening is checked by connecting only: no request is sent or counted.
        mark: a text that each worker prints when it serves; *times* of it are waited for too. A worker that is
            still starting would miss the SIGTERM, and the server would wait for it in vain.
    Raises:
        ServerFailed: it ended or did not listen; with its log.
    """
    server = _started(command, env, cwd, mark=mark, times=times, timeout=timeout)
    try:
        yield server
        if server.returncode is None:
            server.stop()
    finally:
        server.close()


def uvicorn(target: str, *args: str, workers: int = 1, **options: Any) -> AbstractContextManager[Server]:
    """uvicorn with *workers* processes; *args* are further arguments, *options* those of ``start``."""

    def command(port: int) -> list[str]:
        # Access lines cost more than the request; errors are still printed.
        quiet = ["--no-access-log", "--log-level", "info"]
        number = ["--workers", str(workers)] if workers > 1 else []
        return _module("uvicorn", target, "--host", HOST, "--port", str(port), *quiet, *number, *args)

    return start(command, mark="Started server process", times=workers, **options)


def gunicorn(
    target: str,
    *args: str,
    workers: int = 1,
    threads: int = 1,
    preload: bool = False,
    worker_class: str | None = None,
    **options: Any,
) -> AbstractContextManager[Server]:
    """gunicorn; *worker_class* ``UVICORN_WORKER`` serves ASGI."""

    def command(port: int) -> list[str]:
        more = [*(["--preload"] if preload else []), *(["--worker-class", worker_class] if worker_class else [])]
        numbers = [
            "--config",
            f"python:{gunicorn_ready.__name__}",
            "--workers",
            str(workers),
            "--threads",
            str(threads),
        ]
        return _module("gunicorn", target, "--bind", f"{HOST}:{port}", *numbers, *_no_control_socket(), *more, *args)

    return start(command, mark=gunicorn_ready.MARK, times=workers, **options)


def uwsgi(
    target: str, *args: str, processes: int = 1, threads: bool = True, lazy_apps: bool = False, **options: Any
) -> AbstractContextManager[Server]:
    """
    uWSGI: one master that loads the app, then forks *processes* in C, unless *lazy_apps*.

    *threads* is ``--enable-threads``: without it no thread of Python's own runs between requests.
    """

    def command(port: int) -> list[str]:
        more = [*(["--enable-threads"] if threads else []), *(["--lazy-apps"] if lazy_apps else [])]
        fixed = ["--master", "--need-app", "--die-on-term", "--disable-logging", "--home", sys.prefix]
        fixed += ["--hook-accepting", f"print:{mark}", "--worker-reload-mercy", "5"]
        where = ["--http-socket", f"{HOST}:{port}", "--module", target, "--processes", str(processes)]
        return [_script("uwsgi"), *fixed, *where, *more, *args]

    mark = "harness: worker ready"
    # uWSGI also prints the hook itself, but not at the start of a line.
    return start(command, mark=f"\n{mark}", times=processes, **options)


def wsgiref(target: str, **options: Any) -> AbstractContextManager[Server]:
    """The standard library's server: one thread, one request at a time."""
    return start(lambda port: _module("tests.support.run_wsgiref", target, str(port)), **options)


def flask_dev(target: str, *args: str, **options: Any) -> AbstractContextManager[Server]:
    """``flask run`` with its threads, without reloader and debugger."""

    def command(port: int) -> list[str]:
        fixed = ["run", "--no-reload", "--no-debugger", "--host", HOST, "--port", str(port)]
        return _module("flask", "--app", target, *fixed, *args)

    return start(command, **options)


def django_dev(settings: str, *args: str, **options: Any) -> AbstractContextManager[Server]:
    """``manage.py runserver`` for a settings module, without reloader."""

    def command(port: int) -> list[str]:
        return _module("django", "runserver", f"{HOST}:{port}", "--noreload", "--settings", settings, *args)

    return start(command, **options)


UVICORN_WORKER: Final = "uvicorn.workers.UvicornWorker"


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    """Whether somebody listens on *port*."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def _started(
    command: Callable[[int], Sequence[str]],
    env: Mapping[str, str] | None,
    cwd: str | Path | None,
    *,
    mark: str,
    times: int,
    timeout: float,
) -> Server:
    for last in (False, True):
        port = free_port()
        server = Server(command(port), port, env=env, cwd=cwd)
        try:
            server._wait_ready(mark, times, timeout)
        except ServerFailed as failure:
            # Somebody took the free port in between.
            if last or "in use" not in str(failure):
                raise
        except BaseException:
            server.close()
            raise
        else:
            return server
    raise AssertionError("unreachable")


def _environment(env: Mapping[str, str], cwd: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    path = os.pathsep.join(filter(None, [str(cwd), str(ROOT / "src"), str(ROOT), env.get("PYTHONPATH")]))
    return {**inherited, "PYTHONUNBUFFERED": "1", **env, "PYTHONPATH": path}


def _module(name: str, *args: str) -> list[str]:
    return [sys.executable, "-m", name, *args]


def _script(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ServerFailed(f"{name} is not installed: pip install -e '.[dev]'")
    return found


@cache
def _no_control_socket() -> tuple[str, ...]:
    """gunicorn 25.1 and later put a control socket into the home directory, one for all instances."""
    major, minor = version("gunicorn").split(".")[:2]
    return ("--no-control-socket",) if (int(major), int(minor)) >= (25, 1) else ()


def _is_helper(pid: str) -> bool:
    # uvicorn's workers are spawned by multiprocessing, which keeps a resource tracker beside them.
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True  # gone since it was listed: no worker either
