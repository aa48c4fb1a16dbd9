"""
A real Prometheus of a test's own: on a free port, in a directory of its own, gone with the test.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from .needs import need
from .redis_server import free_port
from .wait import eventually

if TYPE_CHECKING:
    from typing import Self


class PrometheusServer:
    """
    Scrapes one target every second.

    Args:
        target: ``host:port`` with ``/metrics``.
    """

    def __init__(self, target: str) -> None:
        need("prometheus", "prometheus")
        self._target = target
        self._port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="canary-prometheus-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        config = Path(self._folder.name) / "prometheus.yml"
        jobs = [{"job_name": "service", "static_configs": [{"targets": [self._target]}]}]
        # YAML is a superset of JSON.
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self._folder.name}/data",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._is_ready, timeout=30)
        return self

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()
