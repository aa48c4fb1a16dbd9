"""
One measurement in a fresh interpreter: OpenTelemetry's providers are global and can be set only once.

``run`` starts it and reads what it prints; run as a module, this is what it starts.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .effort import EFFORTS
from .measure import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effort import Effort
    from .figures import Figure

_ROOT: Final = Path(__file__).resolve().parents[2]
_TIMEOUT_S: Final = 120
# Nothing is sent during a round, and nothing is dropped: both sides queue a whole round and hand it over afterwards.
_QUEUE: Final = {
    "OTEL_BSP_MAX_QUEUE_SIZE": "65536",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "65536",
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
}


def run(figure: Figure, effort: str, collector: str) -> Timings:
    """
    Measure *figure* in a process of its own.

    Args:
        effort: a key of ``EFFORTS``.
        collector: URL that takes OTLP over HTTP.
    Raises:
        RuntimeError: the process failed; says the last thing it wrote.
    """
    command = [sys.executable, "-m", __name__, figure.subject, effort]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env=environment(figure, collector),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return Timings(**json.loads(done.stdout.splitlines()[-1]))


def environment(figure: Figure, collector: str) -> dict[str, str]:
    """The caller's own, without settings of his that would change what is measured."""
    found = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "CANARY_", "DJANGO_"))}
    found["PYTHONPATH"] = os.pathsep.join((str(_ROOT / "src"), str(_ROOT)))
    if figure.signals:
        found |= _QUEUE
        found["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
        # Contrib's metrics as they are called now; ours have no older names.
        found["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"
        found["OTEL_TRACES_SAMPLER"] = figure.sampler
        for signal in ("traces", "metrics", "logs"):
            if signal not in figure.signals:
                found[f"OTEL_{signal.upper()}_EXPORTER"] = "none"
    return found


def main(subject: str, effort: str) -> None:
    """Measure, and print the readings as one line of JSON."""
    module, _, name = subject.partition(":")
    measure: Callable[[Effort], Any] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    print(json.dumps(asdict(measure(EFFORTS[effort]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
