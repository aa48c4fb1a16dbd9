"""Every server of the harness serves for real, stops on SIGTERM and leaves no process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.client import Client, Request, drive, send_raw
from tests.support.wait import eventually

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

WSGI = "tests.support.apps:wsgi"
ASGI = "tests.support.apps:asgi"

DJANGO_SETTINGS = """
SECRET_KEY = "not a secret"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "settings"
WSGI_APPLICATION = "tests.support.apps.wsgi"
urlpatterns = []
"""

FLASK_APP = """
from flask import Flask
app = Flask(__name__)
app.get("/x")(lambda: "shop")
"""

STARTERS = {
    "uvicorn": lambda: servers.uvicorn(ASGI),
    "uvicorn-2": lambda: servers.uvicorn(ASGI, workers=2),
    "gunicorn-2": lambda: servers.gunicorn(WSGI, workers=2),
    "gunicorn-preload": lambda: servers.gunicorn(WSGI, workers=2, threads=2, preload=True),
    "gunicorn-uvicorn": lambda: servers.gunicorn(ASGI, worker_class=servers.UVICORN_WORKER),
    "uwsgi-2": lambda: servers.uwsgi(WSGI, processes=2),
    "uwsgi-lazy": lambda: servers.uwsgi(WSGI, processes=1, lazy_apps=True),
    "wsgiref": lambda: servers.wsgiref(WSGI),
}


def living_of_session(leader: int) -> list[int]:
    """Processes, other than zombies, in the session that *leader* began."""
    living: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = stat.read_text().partition(" (")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, session = rest.rpartition(") ")[2].split()[:4]
        if int(session) == leader and state not in "ZX":
            living.append(int(pid))
    return living


@pytest.mark.parametrize("name", STARTERS)
def test_a_server_answers_stops_on_sigterm_and_leaves_no_process(name: str) -> None:
    start: AbstractContextManager[servers.Server] = STARTERS[name]()
    with start as server, Client(server.url) as client:
        answer = client.get("/hello")
        worker = int(answer.header("x-pid") or 0)
        assert worker in server.worker_pids()
        code = server.stop()

    assert answer.status == 200
    assert answer.text.strip() == "/hello"
    assert answer.header_values("x-a") == ["1", "2"]
    # The shell's view of SIGTERM where a server has no handler, and what uvicorn raises again after its clean end.
    assert code in {0, -15}
    assert eventually(lambda: not living_of_session(server.pid), message=server.logs)


def test_djangos_development_server_serves_a_settings_module(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(DJANGO_SETTINGS)

    with servers.django_dev("settings", cwd=tmp_path) as server, Client(server.url) as client:
        assert client.get("/x").text == "/x"


def test_flasks_development_server_serves_an_app_by_import_string(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(FLASK_APP)

    with servers.flask_dev("shop:app", cwd=tmp_path) as server, Client(server.url) as client:
        assert client.get("/x").text == "shop"


def test_leaving_the_block_by_an_error_kills_the_whole_group() -> None:
    with pytest.raises(KeyError), servers.gunicorn(WSGI, workers=2) as server:
        raise KeyError

    assert server.returncode == -9
    assert eventually(lambda: not living_of_session(server.pid))


def test_an_app_that_cannot_be_imported_is_reported_with_the_servers_own_words() -> None:
    with pytest.raises(servers.ServerFailed, match="nowhere"), servers.uvicorn("tests.nowhere:app"):
        pass


def test_a_server_that_ignores_sigterm_is_killed_and_reported() -> None:
    deaf = (
        "import signal, socket, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: s.accept()\n"
    )
    with servers.start(lambda port: [sys.executable, "-c", deaf, str(port)]) as server:
        with pytest.raises(servers.ServerFailed, match="still running"):
            server.stop(timeout=0.3)

        assert server.returncode == -9


def test_the_environment_is_the_tests_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "leaks")
    monkeypatch.setenv("CANARY_STORE", "leaks")

    environment = servers._environment({"CANARY_X": "1"}, Path.cwd())

    assert "leaks" not in environment.values()
    assert environment["CANARY_X"] == "1"


def test_thousands_of_requests_come_back_complete_and_in_order() -> None:
    with servers.uvicorn(ASGI) as server:
        answers = drive(server.url, (Request(f"/{n}") for n in range(2_000)))

    assert [answer.text for answer in answers] == [f"/{n}\n" for n in range(2_000)]


def test_a_body_can_be_read_in_pieces_and_raw_bytes_can_be_sent() -> None:
    with servers.uvicorn(ASGI) as server, Client(server.url) as client:
        with client.stream("GET", "/pieces") as streamed:
            pieces = b"".join(streamed)
        raw = send_raw(server.url, b"GET /raw HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert pieces == b"/pieces\n"
    assert raw.startswith(b"HTTP/1.1 200")
    assert b"/raw" in raw


def test_a_kept_connection_that_the_server_closed_is_opened_again() -> None:
    with servers.gunicorn(WSGI) as server, Client(server.url) as client:
        pids = {client.get("/").header("x-pid") for _ in range(3)}

    assert len(pids) == 1
    assert str(os.getpid()) not in pids
