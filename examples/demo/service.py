"""
The service of the demo: the FastAPI example under a real uvicorn, and a real OTLP receiver beside it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from canary_middleware import Canary
from canary_middleware._serving.plan_file import read_plan
from tests.support import servers
from tests.support.otlp import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

APP: Final = "examples.fastapi_recommendations.app:app"
_EXAMPLE: Final = Path(__file__).parents[1] / "fastapi_recommendations"
PLAN: Final = _EXAMPLE / "canary.toml"
STAGED: Final = _EXAMPLE / "canary.staged.toml"
JUDGED: Final = _EXAMPLE / "canary.judged.toml"


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: where it listens, where its telemetry arrives, and the plan that it follows, asked here."""

    url: str
    otlp: OtlpReceiver
    expected: Canary


@contextmanager
def running(settings: Mapping[str, str], *, workers: int = 1) -> Iterator[Service]:
    """
    Start the service with *settings* in its environment. However the block ends, nothing is left running.

    Raises:
        ServerFailed: it did not start; with what it printed.
    """
    with OtlpReceiver() as otlp:
        # Room for every span: on a slow machine the queue would drop some, and the totals are to be exact.
        env = {**otlp.env(service="recommendations", interval_ms=400), "OTEL_BSP_MAX_QUEUE_SIZE": "32768", **settings}
        with servers.uvicorn(APP, workers=workers, env=env) as server:
            # The same plan in this process: versions are computed, so client and server must agree on each user. It
            # is asked about the hash only, and has nothing to do with the store.
            plan = read_plan(settings.get("RECOMMENDER_PLAN", PLAN))
            plan.pop("store", None)
            environ = {name: value for name, value in settings.items() if name != "CANARY_STORE"}
            yield Service(server.url, otlp, Canary.load(plan, environ=environ))
