"""
``python -m tests.benchmarks.control_plane``: how fast a command is in force everywhere, and what it costs.

Real servers, real stores, one machine. It never fails because of a figure.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final

from canary_middleware import Canary, by_header, open_store
from canary_middleware._core.lifecycle import transitions
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.schema import parse
from canary_middleware._views.acknowledged import wait_for_workers
from canary_middleware.errors import StaleRevision, StoreUnavailable
from canary_middleware.stores.changes import Control
from tests.support import servers
from tests.support.client import Client
from tests.support.hosts import two_hosts
from tests.support.redis_server import RedisServer
from tests.support.servers import ROOT
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

APP: Final = "tests.e2e.apps.administered:wsgi_app"
TOKEN: Final = {"CANARY_ADMIN_TOKEN": "a-token-of-some-length"}
SETS: Final = 200
STOPS: Final = 25
COMMANDS: Final = 10
WRITERS: Final = 8
WRITES: Final = 1000
IDLE_S: Final = 15.0
WORKERS: Final = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report; *value* is what the target is for."""

    what: str
    detail: str
    value: float
    target: float | None
    unit: str

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else self.value <= self.target


def main() -> None:
    """Measure and print."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, RedisServer() as redis:
        places = {"SQLite": f"sqlite:///{folder}/canary.db", "Redis": redis.url}
        for kind, place in places.items():
            _tell(f"gunicorn, {WORKERS} workers, {kind} …")
            rows += _served(kind, place, Path(folder))
            _tell(f"{WRITES:,} sets from {WRITERS} processes, {kind} …")
            rows.append(
                _written(kind, f"sqlite:///{folder}/writes.db" if kind == "SQLite" else f"{place}?prefix=writes")
            )
        _tell("two hosts …")
        rows.append(_two_hosts(Path(folder)))
        _tell("a request with and without a store …")
        rows.append(_request(f"sqlite:///{folder}/request.db"))
    _show(rows)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _served(kind: str, place: str, folder: Path) -> list[Row]:
    env = {"CANARY_STORE": place, "CANARY_STATE_DIR": str(folder / kind), **TOKEN}
    control = Control(open_store(place))
    with servers.gunicorn(APP, workers=WORKERS, env=env) as server:
        _awake(control, [server.url], WORKERS)
        rows = [
            _latency(f"set, {kind}", control, [_set(n) for n in range(SETS)]),
            _latency(f"emergency, {kind}", control, [_stop(n) for n in range(STOPS)]),
            _typed(f"`canary set`, {kind}", place),
        ]
        if kind == "Redis":
            rows.append(_idle(control))
    control.store.close()
    return rows


def _awake(control: Control, urls: Sequence[str], workers: int) -> None:
    """Ask until every worker has had its first request."""

    def all_there() -> bool:
        try:
            for url in urls:
                for n in range(40):
                    with Client(url) as client:
                        client.get("/", x_user_id=str(n))
            return len(control.store.workers()) == workers
        except (OSError, StoreUnavailable):
            return False  # not up yet

    eventually(all_there, timeout=60, interval=0.2)


# The verb and the transition of each change; emergencies alternate with what undoes them, which is not counted.
Change = tuple[str, "Callable[[Rollout], Rollout]", bool]


def _set(n: int) -> Change:
    return "set", lambda rollout: transitions.set_weight(rollout, (n % 50 + 1) * 10_000), True


def _stop(_: int) -> Change:
    return "emergency", transitions.lock, True


def _latency(what: str, control: Control, changes: Sequence[Change]) -> Row:
    taken = []
    for verb, transition, _ in changes:
        began = time.perf_counter()
        after = control.change("checkout", verb, transition, actor="bench")
        found = wait_for_workers(control.store, "checkout", after.revision, sleep=lambda _: time.sleep(0.002))
        assert not found.missing, found
        taken.append(time.perf_counter() - began)
        if after.phase == "locked":
            for undo in (transitions.unlock, transitions.retry):
                control.change("checkout", "undo", undo, actor="bench")
    return _spread(what, taken, 1.0)


def _spread(what: str, taken: Sequence[float], target: float | None) -> Row:
    p99 = quantiles(taken, n=100, method="inclusive")[98]
    detail = f"{len(taken)} times: median {median(taken):.3f}, max {max(taken):.3f} s"
    return Row(what, detail, p99, target, "s, p99")


def _typed(what: str, place: str) -> Row:
    env = {**os.environ, "CANARY_STORE": place}
    taken = []
    for n in range(COMMANDS):
        began = time.perf_counter()
        words = [sys.executable, "-m", "canary_middleware.cli", "set", str(n + 1)]
        subprocess.run(words, env=env, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return _spread(f"{what}, with the command's own start", taken, None)


def _idle(control: Control) -> Row:
    """Commands that Redis carried out for four idle workers, without those that ask it for that."""
    client = control.store._connected()  # type: ignore[attr-defined]
    time.sleep(2.0)
    before = client.info("stats")["total_commands_processed"]
    time.sleep(IDLE_S)
    after = client.info("stats")["total_commands_processed"]
    rate = (after - before - 1) / IDLE_S / WORKERS
    return Row("an idle worker asks Redis", f"{WORKERS} workers, {IDLE_S:g} s", rate, 5.0, "commands/s")


def _write(place: str, writes: int) -> int:
    """Sets *writes* weights, deciding anew after each lost race; returns how many races were lost."""
    control, lost = Control(open_store(place)), 0
    for n in range(writes):
        while True:
            expect = control.rollout("checkout").revision
            try:
                control.change("checkout", "set", _set(n)[1], actor=f"pid {os.getpid()}", expect=expect)
                break
            except StaleRevision:
                lost += 1
    control.store.close()
    return lost


def _written(kind: str, place: str) -> Row:
    control = Control(open_store(place))
    control.register(Rollout(plan=parse({"rollout": {"checkout": {}}}).rollouts[0]), actor="bench", reason="")
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
        lost = pool.starmap(_write, [(place, WRITES // WRITERS)] * WRITERS)
    took = time.perf_counter() - began
    revision, rows = control.rollout("checkout").revision, len(control.store.history("checkout", 10 * WRITES)) - 1
    control.store.close()
    detail = f"{WRITES:,} in {took:.1f} s; revision {revision:,}, {rows:,} rows; {sum(lost):,} races decided anew"
    return Row(
        f"updates lost among {WRITERS} writers, {kind}", detail, abs(WRITES - revision) + abs(WRITES - rows), 0, ""
    )


def _two_hosts(folder: Path) -> Row:
    with ExitStack() as stack:
        one, two = stack.enter_context(two_hosts())
        place = f"redis://{one.address}:6390/0"
        words = ["redis-server", "--bind", one.address, "--port", "6390", "--save", "", "--protected-mode", "no"]
        one.popen(words, cwd=folder)
        env = {**os.environ, "CANARY_STORE": place, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **TOKEN}
        for n, host in enumerate((one, two)):
            bind = f"{host.address}:8000"
            state = {"CANARY_STATE_DIR": str(folder / f"host-{n}")}
            gunicorn = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", bind, APP]
            host.popen(gunicorn, cwd=ROOT, env=env | state, stderr=subprocess.DEVNULL)
        urls = [f"http://{host.address}:8000" for host in (one, two)]
        inside = [sys.executable, "-m", "tests.benchmarks.control_plane", "--inside", place, *urls]
        done = subprocess.run(one.command(inside), cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, timeout=180)
        how = "network namespaces" if one.namespace else "one loopback"
    return _spread(f"set, Redis, two hosts ({how})", json.loads(done.stdout), 1.0)


def _inside(place: str, urls: Sequence[str]) -> None:
    """What is measured from one of the two hosts."""
    control = Control(open_store(place))

    _awake(control, urls, 2 * len(urls))
    taken = []
    for n in range(SETS // 2):
        began = time.perf_counter()
        after = control.change("checkout", "set", _set(n)[1], actor="bench")
        found = wait_for_workers(control.store, "checkout", after.revision, sleep=lambda _: time.sleep(0.002))
        assert not found.missing, found
        taken.append(time.perf_counter() - began)
    print(json.dumps(taken))


def _request(place: str) -> Row:
    """The whole WSGI path of a Canary with a store against one without, in turns."""
    from canary_middleware import wsgi

    def app(_: object, start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"v1"]

    with_store = Canary("checkout", key=[by_header("x-user-id")], stages=[10], store=place, environ={})
    without = Canary("checkout", key=[by_header("x-user-id")], weight=10, environ={})
    apps = [wsgi.CanaryMiddleware(app, canary=canary) for canary in (with_store, without)]
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_X_USER_ID": "user-42", "wsgi.url_scheme": "http"}

    def loop(served: wsgi.CanaryMiddleware, number: int = 2000) -> float:
        began = time.perf_counter()
        for _ in range(number):
            served(dict(environ), lambda *_: None)  # type: ignore[arg-type, return-value]
        return (time.perf_counter() - began) / number

    for served in apps:
        loop(served)
    with_store.start()
    pairs = [(loop(apps[0]), loop(apps[1])) for _ in range(60)]
    with_store.close()
    ratio = median(mine / other for mine, other in pairs)
    detail = f"{median(p[0] for p in pairs) * 1e6:.2f} µs against {median(p[1] for p in pairs) * 1e6:.2f} µs"
    return Row("a request with a store against one without", detail, ratio, 1.05, "×")


def _show(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 200
    table = Table("What", "Measured", "Figure", "Target", "Met", title="Steering: how fast, and at what cost")
    for row in rows:
        target = "–" if row.target is None else f"{row.target:g}"
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: "–"}[row.is_met]
        table.add_row(row.what, row.detail, f"{row.value:.3g} {row.unit}", target, met)
    console.print(table)
    print(f"Load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        _inside(sys.argv[2], sys.argv[3:])
    else:
        main()
