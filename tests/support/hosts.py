"""
Two hosts on one machine: network namespaces joined by a cable, where the user may make them.

    with two_hosts() as (one, two):
        one.popen(["redis-server", "--bind", one.address, …])
        two.popen([…])                   # reaches the other by one.address

Without the right to make namespaces both hosts are this one, told apart by their addresses on the loopback network
(127.0.0.0/8): their processes are the same, the cable is missing.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STOP_S: Final = 10.0


@dataclass(slots=True)
class Host:
    """One of the two; *namespace* is None where there are none."""

    address: str
    namespace: str | None
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, words: Sequence[str]) -> list[str]:
        """*words*, to be run on this host."""
        return [*([] if self.namespace is None else ["ip", "netns", "exec", self.namespace]), *words]

    def popen(self, words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start *words* on this host; ended with it."""
        quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        process = subprocess.Popen(self.command(words), start_new_session=True, **{**quiet, **options})
        self._running.append(process)
        return process

    def stop(self) -> None:
        for process in self._running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other; whatever runs on them ends with the block."""
    with ExitStack() as stack:
        names = _namespaces(stack)
        if names is None:
            hosts = Host("127.0.0.2", None), Host("127.0.0.3", None)
        else:
            hosts = Host("10.213.0.1", names[0]), Host("10.213.0.2", names[1])
        for host in hosts:
            stack.callback(host.stop)
        yield hosts


def _namespaces(stack: ExitStack) -> tuple[str, str] | None:
    one, two = (f"canary-{os.getpid()}-{n}" for n in (1, 2))
    # Fifteen letters at most.
    cable = (f"cn{os.getpid()}a"[-15:], f"cn{os.getpid()}b"[-15:])
    try:
        for name in (one, two):
            _ip("netns", "add", name)
            stack.callback(_quietly, "netns", "delete", name)
        _ip("link", "add", cable[0], "netns", one, "type", "veth", "peer", "name", cable[1], "netns", two)
        for name, device, address in ((one, cable[0], "10.213.0.1"), (two, cable[1], "10.213.0.2")):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError):
        return None
    return one, two


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _quietly(*words: str) -> None:
    subprocess.run(["ip", *words], check=False, capture_output=True)
