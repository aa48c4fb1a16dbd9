"""What ``import canary_middleware`` adds to the start of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .measure import Timings

if TYPE_CHECKING:
    from .effort import Effort

_SRC: Final = str(Path(__file__).resolve().parents[2] / "src")
# Both interpreters do this: the package need not be installed.
_PREFIX: Final = f"import sys; sys.path.insert(0, {_SRC!r}); "
STATEMENT: Final = "from canary_middleware import Canary"


def cold(effort: Effort) -> Timings:
    """CPU of an interpreter that imports Canary and ends, and of one that only ends."""
    found = Timings(unit="ms")
    _started(STATEMENT)  # writes the .pyc files
    for number in range(effort.starts):
        if number % 2:
            bare, ours = _started("pass"), _started(STATEMENT)
        else:
            ours, bare = _started(STATEMENT), _started("pass")
        found.ours.append(ours)
        found.peer.append(bare)
    return found


def _started(statement: str) -> float:
    """Milliseconds of CPU of ``python -I -c statement``, the kernel's share included."""
    process = subprocess.Popen([sys.executable, "-I", "-c", _PREFIX + statement])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{statement!r} ended with {process.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def slowest(count: int = 12) -> list[tuple[str, int]]:
    """(module, µs without what it imports itself) of the most expensive imports."""
    command = [sys.executable, "-I", "-X", "importtime", "-c", _PREFIX + STATEMENT]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    rows = [line.removeprefix("import time:").split("|") for line in report.splitlines() if "|" in line]
    own = [(name.strip(), int(self_us)) for self_us, _, name in rows if self_us.strip().isdecimal()]
    return sorted(own, key=lambda row: -row[1])[:count]
