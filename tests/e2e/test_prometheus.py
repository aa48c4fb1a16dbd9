"""A fleet that has Prometheus: the same judge, fed by a real one that scrapes a real service."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from canary_middleware._control.prometheus import PrometheusSource, SourceAway
from canary_middleware._core.plan.schema import MetricsSource
from canary_middleware.stores import open_store
from canary_middleware.stores.changes import Control
from tests.support import servers
from tests.support.prometheus_server import PrometheusServer
from tests.support.redis_server import free_port
from tests.support.wait import eventually

from .test_controller import PLAN, Service
from .test_guardrails import FRONTS, Load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def scraped(tmp_path: Path) -> Iterator[tuple[Service, PrometheusServer]]:
    target, path = FRONTS["fastapi"]
    port, journal, breaks = free_port(), tmp_path / "journal", tmp_path / "break"
    with ExitStack() as stack:
        prometheus = stack.enter_context(PrometheusServer(f"127.0.0.1:{port}"))
        plan = {**PLAN, "source": {"prometheus": prometheus.url, "step": "2s", "delay": "2s"}}
        env = {
            "CANARY_STORE": f"sqlite:///{tmp_path}/canary.db",
            "JOURNAL": str(journal),
            "BREAK": str(breaks),
            "PLAN": json.dumps(plan),
            "METRICS_PORT": str(port),
        }
        server = stack.enter_context(servers.uvicorn(target, workers=1, env=env))
        control = Control(open_store(env["CANARY_STORE"]))
        stack.callback(control.store.close)
        load = stack.enter_context(Load(server.url, path))
        yield Service(control, load, journal, breaks, server), prometheus


def test_v2_climbs_and_is_rolled_back_by_what_prometheus_says(tmp_path: Path) -> None:
    with scraped(tmp_path) as (service, _):
        service.start()
        service.reach(stage=1)
        service.breaks.touch()
        service.reach(phase="rolled_back", timeout=40)
        rollback = service.control.store.history("shop", 1)[0]

    assert rollback.actor == "controller"
    assert rollback.reason.startswith("v2 fails more often than v1")
    assert {status for status, _ in service.load.answers} == {200}


def test_a_prometheus_that_is_away_holds_and_rolls_nothing_back(tmp_path: Path) -> None:
    with scraped(tmp_path) as (service, prometheus):
        prometheus.stop()
        service.start()
        service.reach(phase="holding")
        held = service.control.store.history("shop", 1)[0]

        assert held.verb == "hold"
        assert "does not answer" in held.reason
        assert "mend `source`" in held.reason


def test_the_ticks_add_up_to_what_was_served(tmp_path: Path) -> None:
    with scraped(tmp_path) as (service, prometheus):
        source = PrometheusSource(MetricsSource(prometheus.url, step_s=1.0, delay_s=0.0), "shop")
        since = time.time()

        def is_scraped() -> bool:
            try:
                return any(window.sides for window in source.read(since, time.time()))
            except SourceAway:
                return False

        # From now on every request is counted after a sample that says where its counter stood.
        eventually(is_scraped, timeout=30)
        begun = time.time()
        known = len(service.load.answers)
        service.load.more(3000)
        service.load.stop()
        served = len(service.load.answers)

        def counted() -> int:
            windows = source.read(begun - 2, time.time())
            return sum(side.requests for window in windows for side in window.sides.values())

        seen = eventually(lambda: found if (found := counted()) >= served - known else 0, timeout=20)

    # What was served in the seconds before is in it too, and nothing else.
    assert served - known <= seen <= served
