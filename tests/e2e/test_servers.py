"""Real servers and a real client: the promises of the front doors hold over real sockets."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import uvicorn
from websockets.sync.client import connect

from canary_middleware import Canary, by_header
from canary_middleware.asgi import CanaryMiddleware as AsgiMiddleware
from canary_middleware.testing import force, recorded
from canary_middleware.wsgi import CanaryMiddleware as WsgiMiddleware
from tests.e2e.apps.shop import CHUNK, DOWNLOAD_CHUNKS
from tests.support import servers
from tests.support.client import Client, Request, drive
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

APPS = "tests.e2e.apps"
WSGI, ASGI = f"{APPS}.bare_wsgi:app", f"{APPS}.bare_asgi:app"
USER = "x-user-id"


def weighing(percent: int) -> dict[str, str]:
    return {"API_V2_TRAFFIC_PERCENTAGE": str(percent), "OTEL_SDK_DISABLED": "true"}


BARE_WSGI: dict[str, Any] = {
    "gunicorn": lambda env: servers.gunicorn(WSGI, workers=2, env=env),
    "gunicorn-threads": lambda env: servers.gunicorn(WSGI, workers=2, threads=4, worker_class="gthread", env=env),
    "uwsgi": lambda env: servers.uwsgi(WSGI, processes=2, env=env),
    "wsgiref": lambda env: servers.wsgiref(WSGI, env=env),
}
BARE_ASGI: dict[str, Any] = {
    "uvicorn": lambda env: servers.uvicorn(ASGI, env=env),
    "uvicorn-2": lambda env: servers.uvicorn(ASGI, workers=2, env=env),
}
FRAMEWORKS: dict[str, Any] = {
    "flask": lambda env: servers.flask_dev(f"{APPS}.flask_shop:app", env=env),
    "django": lambda env: servers.django_dev(f"{APPS}.django_shop", env=env),
    "fastapi": lambda env: servers.uvicorn(f"{APPS}.fastapi_shop:app", env=env),
}
BARE = {**BARE_WSGI, **BARE_ASGI}
ALL = {**BARE, **FRAMEWORKS}
ONE_PROCESS: dict[str, Any] = {
    "gunicorn-threads": lambda env: servers.gunicorn(WSGI, threads=4, worker_class="gthread", env=env),
    "uwsgi": lambda env: servers.uwsgi(WSGI, "--threads", "2", env=env),
    "uvicorn": BARE_ASGI["uvicorn"],
}


def connections_of(name: str) -> int:
    """How many clients at once: wsgiref serves one connection until it is closed."""
    return 1 if name == "wsgiref" else 4


@pytest.mark.parametrize("name", ALL)
def test_each_user_gets_the_version_that_the_hash_gives_in_every_process(name: str) -> None:
    expected = Canary("shop", weight=30, key=[by_header(USER)], environ={})
    users = [f"user-{n}" for n in range(500)]

    with ALL[name](weighing(30)) as server:
        asked = (Request("/who", headers={USER: user}) for user in users)
        answers = drive(server.url, asked, connections=connections_of(name))

    got = {user: (a.status, a.text, a.header("X-Canary-Version")) for user, a in zip(users, answers, strict=True)}
    assert got == {user: (200, v, v) for user in users for v in [expected.version_for(user)]}


@pytest.mark.parametrize("name", ALL)
def test_stable_answers_for_a_failing_canary_behind_every_server(name: str) -> None:
    with ALL[name](weighing(100)) as server, Client(server.url, headers={USER: "u"}) as client:
        answers = [client.get(path) for path in ["/who", "/fail", "/who", "/fail", "/fail"]]

    assert [(a.status, a.text) for a in answers] == [(200, v) for v in ["v2", "v1", "v2", "v1", "v1"]]
    assert [a.header("X-Canary-Fallback") for a in answers] == [None, "1", None, "1", "1"]


@pytest.mark.parametrize("name", ["gunicorn-threads", "uvicorn", "fastapi"])
def test_a_connection_is_kept_open_through_a_fallback(name: str) -> None:
    with ALL[name](weighing(100)) as server, Client(server.url, headers={USER: "u"}) as client:
        client.get("/who")
        before = client._connection.sock
        for _ in range(5):
            client.get("/fail")

        assert before is not None
        assert client._connection.sock is before


def test_ten_thousand_requests_to_a_broken_canary_see_no_failure() -> None:
    with servers.uvicorn(ASGI, env=weighing(100)) as server:
        asked = (Request("/fail", headers={USER: f"user-{n}"}) for n in range(10_000))
        answers = drive(server.url, asked)
        with Client(server.url) as client:
            summary = client.get("/counts").json()

    assert {(a.status, a.text, a.header("X-Canary-Fallback")) for a in answers} == {(200, "v1", "1")}
    assert len(answers) == 10_000
    canary = summary["canary"]
    assert (canary["request_count"], canary["error_count"], summary["legacy"]["request_count"]) == (10_000, 10_000, 0)


@pytest.mark.parametrize("weight", [0, 100])
@pytest.mark.parametrize("name", BARE)
def test_a_large_download_arrives_whole(name: str, weight: int) -> None:
    digest = hashlib.sha256()

    with (
        BARE[name](weighing(weight)) as server,
        Client(server.url, headers={USER: "u"}) as client,
        client.stream("GET", "/download") as streamed,
    ):
        for piece in streamed:
            digest.update(piece)

    assert digest.hexdigest() == hashlib.sha256(CHUNK * DOWNLOAD_CHUNKS).hexdigest()


@pytest.mark.parametrize("name", BARE_WSGI)
def test_a_file_is_sent_whole(name: str) -> None:
    with BARE[name](weighing(100)) as server, Client(server.url, headers={USER: "u"}) as client:
        answer = client.get("/file")

    assert (answer.status, answer.body == CHUNK * 16, answer.header("X-Canary-Version")) == (200, True, "v2")


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("name", BARE)
def test_an_upload_of_20_mb_arrives_whole(name: str, method: str) -> None:
    body = CHUNK * DOWNLOAD_CHUNKS

    with BARE[name](weighing(100)) as server, Client(server.url, headers={USER: "u"}) as client:
        answer = client.request(method, "/upload", body=body)

    assert (answer.status, answer.text) == (200, str(len(body)))


@pytest.mark.parametrize("name", ["gunicorn", "uvicorn"])
def test_a_chunked_upload_arrives_whole(name: str) -> None:
    with BARE[name](weighing(100)) as server, Client(server.url, headers={USER: "u"}) as client:
        answer = client.request("PUT", "/upload", body=iter([CHUNK] * 50))

    assert answer.text == str(len(CHUNK) * 50)


@pytest.mark.parametrize("name", BARE)
def test_stable_gets_the_whole_body_that_the_canary_read(name: str) -> None:
    with BARE[name](weighing(100)) as server, Client(server.url, headers={USER: "u"}) as client:
        answer = client.request("PUT", "/upload-fail", body=CHUNK * 10)

    assert (answer.status, answer.text) == (200, f"v1 {len(CHUNK) * 10}")


@pytest.mark.parametrize(("method", "weight"), [("POST", 100), ("PUT", 100), ("PUT", 0)])
def test_an_upload_is_read_by_the_app_while_the_client_still_sends(method: str, weight: int) -> None:
    head = f"{method} /echo HTTP/1.1\r\nhost: x\r\n{USER}: u\r\ntransfer-encoding: chunked\r\n\r\n"

    with servers.uvicorn(ASGI, env=weighing(weight)) as server, connected(server.url) as (sock, reader):
        sock.sendall(head.encode() + b"5\r\nfirst\r\n")
        skip_head(reader)
        first = chunk_from(reader)  # while our body is not complete
        sock.sendall(b"6\r\nsecond\r\n0\r\n\r\n")
        second = chunk_from(reader)

    assert (first, second) == (b"first\n", b"second\n")


@pytest.mark.parametrize("weight", [0, 100])
def test_the_headers_of_an_event_stream_arrive_before_its_first_event(weight: int) -> None:
    head = f"GET /events HTTP/1.1\r\nhost: x\r\n{USER}: u\r\ntransfer-encoding: chunked\r\n\r\n"
    version = b"v2" if weight else b"v1"

    with servers.uvicorn(ASGI, env=weighing(weight)) as server, connected(server.url) as (sock, reader):
        sock.sendall(head.encode())
        headers = skip_head(reader)  # the app waits for the end of our body before its first event
        sock.sendall(b"0\r\n\r\n")
        events = [chunk_from(reader) for _ in range(3)]

    assert b"x-canary-version: " + version in headers
    assert events == [b"data: %s %d\n\n" % (version, n) for n in range(3)]


@contextmanager
def connected(url: str) -> Iterator[tuple[socket.socket, Any]]:
    """A raw connection, and what comes back on it as a file."""
    at = urlsplit(url)
    with socket.create_connection((at.hostname or "", at.port or 0), timeout=15) as sock, sock.makefile("rb") as reader:
        yield sock, reader


def skip_head(reader: Any) -> list[bytes]:
    """The lines of a response's head, in lower case."""
    lines: list[bytes] = []
    while (line := reader.readline().rstrip(b"\r\n")) or not lines:
        assert line, "the server hung up"
        lines.append(line.lower())
    return lines


def chunk_from(reader: Any) -> bytes:
    """One chunk of a chunked body."""
    size = int(reader.readline(), 16)
    data: bytes = reader.read(size)
    reader.readline()
    return data


@pytest.mark.parametrize(("weight", "version"), [(0, "v1"), (100, "v2")])
def test_a_websocket_echoes_and_its_handshake_names_the_version(weight: int, version: str) -> None:
    with servers.uvicorn(ASGI, env=weighing(weight)) as server:
        url = server.url.replace("http", "ws") + "/ws"
        with connect(url, additional_headers={USER: "u"}, proxy=None) as websocket:
            websocket.send("hello")
            heard = websocket.recv(timeout=10)
            assert websocket.response is not None
            named = websocket.response.headers["X-Canary-Version"]
        with Client(server.url) as client:
            side = "canary" if weight else "legacy"
            eventually(lambda: client.get("/counts").json()[side]["request_count"] == 1)

    assert (heard, named) == (f"{version} hello", version)


@pytest.mark.parametrize("weight", [0, 100])
@pytest.mark.parametrize("name", ONE_PROCESS)
def test_a_client_that_leaves_in_mid_stream_is_counted_as_aborted(name: str, weight: int) -> None:
    side = "canary" if weight else "legacy"

    with ONE_PROCESS[name](weighing(weight)) as server, Client(server.url) as client:
        with Client(server.url, headers={USER: "u"}) as leaving, leaving.stream("GET", "/endless") as streamed:
            next(iter(streamed))

        def counted() -> Any:
            said = client.get("/counts").json()[side]
            return (said["aborted_count"], said["request_count"], said["error_count"]) == (1, 0, 0)

        eventually(counted, message=server.logs)


@pytest.mark.parametrize("name", [*BARE, "fastapi"])
def test_head_is_answered_without_body_and_with_the_version(name: str) -> None:
    with ALL[name](weighing(100)) as server, Client(server.url, headers={USER: "u"}) as client:
        answers = [client.request("HEAD", path) for path in ("/who", "/fail")]
        after = client.get("/who")

    assert [(a.status, a.body, a.header("X-Canary-Version")) for a in answers] == [(200, b"", "v2"), (200, b"", "v1")]
    assert [a.header("content-length") for a in answers] == ["2", "2"]
    assert after.text == "v2"


# -- a server in this process ------------------------------------------------------------------------------------------


@contextmanager
def wsgiref_here(canary: Canary) -> Iterator[str]:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["canary_middleware.assignment"].version.encode()]

    with make_server("127.0.0.1", 0, WsgiMiddleware(app, canary=canary), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def uvicorn_here(canary: Canary) -> Iterator[str]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["state"]["canary"].version.encode()})

    port = servers.free_port()
    config = uvicorn.Config(AsgiMiddleware(app, canary=canary), port=port, log_level="error", lifespan="auto")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("serve", [wsgiref_here, uvicorn_here])
def test_force_and_recorded_reach_a_live_server_in_this_process(
    serve: Callable[[Canary], AbstractContextManager[str]],
) -> None:
    canary = Canary("shop", weight=0, environ={})

    with serve(canary) as url, Client(url) as client:
        with recorded(canary) as outcomes, force(canary, "v2"):
            forced = client.get("/").text
            eventually(lambda: len(outcomes) == 1)
        after = client.get("/").text

    assert (forced, after) == ("v2", "v1")
    assert [(o.assignment.version, o.assignment.reason) for o in outcomes] == [("v2", "forced")]
    assert json.dumps(canary.metrics_summary())
