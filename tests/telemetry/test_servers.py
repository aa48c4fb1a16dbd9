"""
Real servers, a real client and a real OTLP receiver: every request arrives once, in spans, metrics and logs.

The export interval is longer than any test: what arrives was handed over when the server stopped.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware.telemetry import names
from tests.support import servers
from tests.support.client import Client
from tests.support.otlp import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tests.support.servers import Server

WSGI = "tests.telemetry.apps:wsgi"
ASGI = "tests.telemetry.apps:asgi"
REQUESTS = 20
LATER_MS = 600_000

# uWSGI runs no exit hooks in a worker that has not quite finished its last request, unless SIGTERM is made graceful.
GRACEFUL = ("--hook-master-start", "unix_signal:15 gracefully_kill_them_all")

KINDS: dict[str, Any] = {
    "gunicorn": lambda env: servers.gunicorn(WSGI, workers=2, env=env),
    "gunicorn --preload": lambda env: servers.gunicorn(WSGI, workers=2, preload=True, env=env),
    "gunicorn gthread --preload": lambda env: servers.gunicorn(WSGI, workers=2, threads=4, preload=True, env=env),
    "uvicorn": lambda env: servers.uvicorn(ASGI, env=env),
    "uvicorn 2 workers": lambda env: servers.uvicorn(ASGI, workers=2, env=env),
    "uwsgi": lambda env: servers.uwsgi(WSGI, *GRACEFUL, processes=2, env=env),
    "uwsgi without threads": lambda env: servers.uwsgi(WSGI, *GRACEFUL, processes=2, threads=False, env=env),
    "uwsgi --lazy-apps": lambda env: servers.uwsgi(WSGI, *GRACEFUL, processes=2, lazy_apps=True, env=env),
}


@pytest.fixture(params=["http/protobuf", "grpc"])
def otlp(request: pytest.FixtureRequest) -> Iterator[OtlpReceiver]:
    with OtlpReceiver(request.param) as receiver:
        yield receiver


def ask(server: Server, times: int) -> Counter[str]:
    """*times* requests of distinct users, each over a connection of its own, so that all workers get some."""
    found: Counter[str] = Counter()
    for number in range(times):
        with Client(server.url) as client:
            response = client.get(f"/cart/{number}", x_user_id=f"user-{number}")
            assert response.status == 200
            found[response.text] += 1
    return found


def assert_exact(otlp: OtlpReceiver, expected: Counter[str]) -> None:
    """Spans, metrics and logs hold, by version, what the clients saw; no more and no less."""
    for version, times in expected.items():
        stamp = {names.VERSION: version, names.ROLLOUT: "checkout"}
        found = {
            "server spans": len(otlp.spans(kind="SERVER", **stamp)),
            "inner spans": len(otlp.spans("work", **stamp)),
            "logs": len([record for record in otlp.logs(**stamp) if str(record.body).startswith("served")]),
            "durations": otlp.histogram_count(names.REQUEST_DURATION, **stamp),
            "assignments": otlp.counter_total(names.ASSIGNMENTS, **stamp),
        }
        assert found == dict.fromkeys(found, times), f"{version}: {otlp.summary()}"
    assert otlp.histogram_count(names.REQUEST_DURATION) == expected.total()
    assert otlp.counter_total("shop.served") == expected.total()
    assert len(otlp.spans(kind="SERVER")) == expected.total()


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_arrives_once_when_the_server_is_stopped(kind: str, otlp: OtlpReceiver) -> None:
    running: AbstractContextManager[Server] = KINDS[kind](otlp.env(interval_ms=LATER_MS))

    with running as server:
        expected = ask(server, REQUESTS)
        server.stop()

    assert_exact(otlp, expected)


# gunicorn's master reports its own requests; uWSGI's starts nothing that a fork in C could break.
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
@pytest.mark.parametrize(("kind", "early"), [("gunicorn --preload", 10), ("uwsgi", 0)])
def test_what_the_master_counted_before_the_fork_is_not_reported_by_its_workers(
    kind: str, early: int, temporality: Any
) -> None:
    with OtlpReceiver() as otlp:
        env = otlp.env(interval_ms=50, temporality=temporality) | {"WARM_UP": "10"}

        with KINDS[kind](env) as server:
            ask(server, REQUESTS)
            server.stop()

        assert otlp.histogram_count(names.REQUEST_DURATION) == REQUESTS + early
        assert otlp.counter_total(names.ASSIGNMENTS) == REQUESTS + early
        assert otlp.counter_total("shop.served") == REQUESTS + early


def test_workers_are_told_apart_by_their_resource(otlp: OtlpReceiver) -> None:
    with KINDS["gunicorn --preload"](otlp.env(interval_ms=LATER_MS)) as server:
        ask(server, REQUESTS)
        pids = set(server.worker_pids())
        server.stop()

    points = otlp.metrics(names.REQUEST_DURATION)
    assert {point.resource[names.PROCESS_ID] for point in points} <= pids
    instances = {point.resource[names.INSTANCE_ID]: point.resource[names.PROCESS_ID] for point in points}
    assert len(set(instances.values())) == len(instances)


@pytest.mark.parametrize("kind", ["gunicorn", "uvicorn", "uwsgi"])
def test_a_server_stops_in_time_with_its_collector_gone(kind: str) -> None:
    with OtlpReceiver() as otlp:
        env = otlp.env(interval_ms=LATER_MS, timeout_ms=60_000)
        otlp.stall()

        with KINDS[kind](env) as server:
            ask(server, REQUESTS)
            # 5 s of ours, and what the server and a slow machine take.
            server.stop(timeout=9.0)
