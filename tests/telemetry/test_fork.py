"""Children start from zero, with threads and connections of their own, whatever their parent was doing."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics

from canary_middleware import telemetry
from canary_middleware.telemetry import ledger, names, pipeline
from tests.support.otlp import OtlpReceiver
from tests.support.wait import eventually
from tests.telemetry.drive import middleware, request

if TYPE_CHECKING:
    from collections.abc import Callable

# A fork of a process with threads is what pre-fork servers do, and what Python warns of since 3.12.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(work: Callable[[], None]) -> None:
    """*work* in a forked child, which must come to a good end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    try:
        status = eventually(lambda: _ended(pid), timeout=30, message="the child hangs")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert os.waitstatus_to_exitcode(status[0]) == 0


def _ended(pid: int) -> tuple[int] | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return (status,) if found else None


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_a_child_reports_only_its_own(point_at: Callable[..., None], temporality: Any) -> None:
    with OtlpReceiver() as otlp:
        point_at(otlp, temporality=temporality)
        telemetry.configure_telemetry()
        orders = metrics.get_meter("shop").create_counter("shop.orders")
        app = middleware()
        for number in range(10):
            request(app, user=str(number))
            orders.add(1)
        assert telemetry.flush()

        def work() -> None:
            for number in range(5):
                request(app, user=str(number))
                orders.add(1)
            assert telemetry.flush()

        for _ in range(3):
            in_child(work)
        request(app)
        orders.add(1)
        assert telemetry.flush()

        assert otlp.histogram_count(names.REQUEST_DURATION) == 10 + 3 * 5 + 1
        assert otlp.counter_total(names.ASSIGNMENTS) == 26
        assert otlp.counter_total("shop.orders") == 26
        assert len(otlp.spans(kind="SERVER")) == 26
        assert len({point.resource[names.INSTANCE_ID] for point in otlp.metrics()}) == 4


def test_a_fork_while_the_parent_exports_leaves_the_child_s_telemetry_alive(point_at: Callable[..., None]) -> None:
    with OtlpReceiver() as otlp:
        point_at(otlp, interval_ms=1)
        telemetry.configure_telemetry()
        counter = metrics.get_meter("shop").create_counter("shop.orders")
        for number in range(500):
            counter.add(1, {"n": number})  # so that collecting takes long enough to be hit
        app = middleware()
        request(app)
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                telemetry.flush()

        exporting = threading.Thread(target=busy)
        exporting.start()
        try:
            for _ in range(15):
                in_child(lambda: _child_of_a_busy_parent(app))
        finally:
            stop.set()
            exporting.join()
        assert telemetry.flush()

        assert otlp.histogram_count(names.REQUEST_DURATION) == 1 + 15
        assert otlp.counter_total("shop.orders") == 500


def _child_of_a_busy_parent(app: Any) -> None:
    request(app)
    assert telemetry.flush(10)


def test_no_child_is_born_in_the_middle_of_a_collection(point_at: Callable[..., None]) -> None:
    with OtlpReceiver() as otlp:
        point_at(otlp)
        telemetry.configure_telemetry()
        collecting, forking = threading.Event(), threading.Event()
        home = os.getpid()

        def observe(_: Any) -> list[metrics.Observation]:
            if os.getpid() == home and not forking.is_set():
                collecting.set()
                forking.wait(10)
                # The collection goes on for a while after the fork was asked for.
                threading.Event().wait(0.3)
            return [metrics.Observation(1)]

        metrics.get_meter("shop").create_observable_gauge("shop.slow", callbacks=[observe])
        app = middleware()
        request(app)
        flushing = threading.Thread(target=telemetry.flush)
        flushing.start()
        assert collecting.wait(10)
        os.register_at_fork(before=forking.set)

        in_child(lambda: _child_of_a_busy_parent(app))

        flushing.join()
        assert otlp.histogram_count(names.REQUEST_DURATION) == 2


def test_a_child_of_a_child_starts_from_zero_too(point_at: Callable[..., None]) -> None:
    with OtlpReceiver() as otlp:
        point_at(otlp)
        telemetry.configure_telemetry()
        app = middleware()

        def grandchild() -> None:
            request(app)
            assert telemetry.flush()

        def child() -> None:
            request(app)
            assert telemetry.flush()
            in_child(grandchild)

        request(app)
        in_child(child)
        assert telemetry.flush()

        assert otlp.histogram_count(names.REQUEST_DURATION) == 3


def test_a_fork_that_python_does_not_see_is_found_by_its_process_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ledger.ledger()
    monkeypatch.setattr(os, "getpid", lambda: before.pid + 1)

    after = ledger.ledger()

    assert after is not before
    assert after.pid == before.pid + 1
    assert ledger.ledger() is after


def test_uwsgi_s_master_opens_no_threads(
    otlp: OtlpReceiver, point_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import SimpleNamespace

    point_at(otlp)
    telemetry.configure_telemetry()
    zero = SimpleNamespace(worker_id=lambda: 0, mule_id=lambda: 0, i_am_the_spooler=lambda: False)
    monkeypatch.setitem(sys.modules, "uwsgi", zero)  # type: ignore[arg-type]

    request(middleware())

    assert pipeline._pipeline is not None
    assert pipeline._pipeline._running is None
    assert telemetry.flush()
