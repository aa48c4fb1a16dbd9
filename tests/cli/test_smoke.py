"""``canary test``: what it says of a service that runs, and of what is wrong with it; it changes nothing."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from canary_middleware import Canary, by_header, wsgi
from tests.support.otlp import OtlpReceiver
from tests.support.wait import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import Terminal

TOKEN = "a-token-for-testers"
GOOD = {
    "key": ["header:x-user-id"],
    "stages": [10, 40, 70, 100],
    "criteria": {"error_rate": {"max": 0.01}, "min_requests": 1000},
    "guardrails": {"error_rate": {"max": 0.05}},
}


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


def says(text: str, status: str = "200 OK") -> Callable[[Any, Any], list[bytes]]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, [("Content-Type", "text/plain")])
        return [text.encode()]

    return app


@contextmanager
def served(app: Any) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def service(terminal: Terminal, two: str = "200 OK", **fields: Any) -> Iterator[str]:
    """The service whose rollout the terminal's store holds."""
    canary = Canary(
        "checkout",
        key=[by_header("x-user-id")],
        stages=[10, 50, 100],
        store=terminal.url,
        environ={"CANARY_OVERRIDE_TOKEN": TOKEN},
        **fields,
    )
    with served(wsgi.CanaryMiddleware(wsgi.apps(says("one"), says("two", two)), canary=canary)) as url:
        try:
            yield url
        finally:
            canary.close()


def lines(terminal: Terminal, *words: str, code: int = 0, **environment: str) -> dict[str, list[tuple[str, str]]]:
    """subject → (level, message) of each line."""
    result = terminal.run("test", *words, "--json", OTEL_EXPORTER_OTLP_ENDPOINT="", **environment)
    assert result.exit_code == code, result.output
    found: dict[str, list[tuple[str, str]]] = {}
    for one in json.loads(result.stdout):
        found.setdefault(one["subject"], []).append((one["level"], one["message"]))
    return found


def test_a_healthy_service_gets_a_line_for_each_version(terminal: Terminal) -> None:
    with service(terminal) as url:
        told = lines(terminal, "--url", url, CANARY_OVERRIDE_TOKEN=TOKEN)
        text = terminal.run("test", "checkout", "--url", url, CANARY_OVERRIDE_TOKEN=TOKEN)

    for subject in ("service", "v1", "v2"):
        assert told[subject][0][0] == "SUCCESS"
        assert "✓ Healthy" in told[subject][0][1]
    assert told["store"][0][0] == "SUCCESS"
    assert told["telemetry"][0][0] == "INFO"
    assert "SUCCESS  v2: ✓ Healthy, 200 in" in text.stdout
    assert "ada" not in [event.actor for event in terminal.store.history()]


@pytest.mark.parametrize("fallback", ["safe-methods", "never"])
def test_a_version_that_fails_is_an_error_also_where_the_other_one_helps_out(terminal: Terminal, fallback: Any) -> None:
    with service(terminal, "500 Oh", fallback=fallback) as url:
        told = lines(terminal, "--url", url, code=1, CANARY_OVERRIDE_TOKEN=TOKEN)

    assert told["v1"][0][0] == "SUCCESS"
    assert told["v2"][0][0] == "ERROR"
    assert ("v1 answered for it" in told["v2"][0][1]) == (fallback == "safe-methods")


def test_without_the_services_own_token_a_version_is_unknown(terminal: Terminal) -> None:
    with service(terminal) as url:
        none = lines(terminal, "--url", url)
        wrong = lines(terminal, "--url", url, CANARY_OVERRIDE_TOKEN="another-token-than-theirs")

    assert none["v2"] == [
        (
            "WARNING",
            "? Unknown: set CANARY_OVERRIDE_TOKEN here as in the service, so that this test may ask for a version",
        )
    ]
    assert "is CANARY_OVERRIDE_TOKEN the same in the service?" in wrong["v2"][0][1]


def test_a_latch_and_a_plan_without_overrides_say_why_a_version_is_unknown(terminal: Terminal) -> None:
    with service(terminal) as url:
        terminal.ok("emergency")
        latched = lines(terminal, "--url", url, CANARY_OVERRIDE_TOKEN=TOKEN)
    terminal.declare("closed", overrides={"header": False})
    with served(says("bare")) as url:
        closed = lines(terminal, "closed", "--url", url, CANARY_OVERRIDE_TOKEN=TOKEN)

    assert "the emergency latch is on" in latched["v2"][0][1]
    assert "add overrides.header" in closed["v2"][0][1]


def test_what_stands_in_the_way_of_the_service_is_named(terminal: Terminal) -> None:
    with served(says("somebody else")) as url:
        bare = lines(terminal, "--url", url, CANARY_OVERRIDE_TOKEN=TOKEN)
    with served(says("broken", "503 Later")) as url:
        broken = lines(terminal, "--url", url, code=1)
    away = lines(terminal, "--url", "http://127.0.0.1:1/", code=1)
    nowhere = lines(terminal)
    wrong = terminal.run("test", "--url", "file:///etc/passwd")

    assert "no X-Canary-Version in the answer" in bare["service"][1][1]
    assert bare["v1"][0][0] == bare["v2"][0][0] == "WARNING"
    assert "no X-Canary-Version says who answered" in bare["v1"][0][1]
    assert "✗ Failing, 503" in broken["service"][0][1]
    assert "Connection refused" in away["service"][0][1]
    assert "pass --url" in nowhere["service"][0][1]
    assert (wrong.exit_code, "must begin with http" in wrong.stderr) == (2, True)


def test_a_version_that_turns_users_away_is_not_healthy(terminal: Terminal) -> None:
    with service(terminal, "404 Not Found") as url:
        told = lines(terminal, "--url", url, code=1, CANARY_OVERRIDE_TOKEN=TOKEN)
    with served(says("who are you", "401 Unauthorized")) as url:
        closed = lines(terminal, "--url", url)

    assert told["v1"][0][0] == "SUCCESS"
    assert told["v2"][0][0] == "ERROR"
    assert "where users get 200" in told["v2"][0][1]
    assert (closed["service"][0][0], "? Unknown, 401" in closed["service"][0][1]) == ("WARNING", True)


def test_a_page_that_nobody_may_see_says_nothing_of_a_version(terminal: Terminal) -> None:
    canary = Canary("checkout", store=terminal.url, environ={"CANARY_OVERRIDE_TOKEN": TOKEN})
    away = says("who are you", "401 Unauthorized")
    with served(wsgi.CanaryMiddleware(wsgi.apps(away, away), canary=canary)) as url:
        told = lines(terminal, "--url", url, CANARY_OVERRIDE_TOKEN=TOKEN)
    canary.close()

    assert [told[name][0][0] for name in ("service", "v1", "v2")] == ["WARNING"] * 3
    assert "pass a --url and --header" in told["v2"][0][1]


def test_without_a_version_header_nothing_tells_who_answered(terminal: Terminal) -> None:
    terminal.declare("closed", version_header=False)
    with served(says("somebody")) as url:
        told = lines(terminal, "closed", "--url", url, CANARY_OVERRIDE_TOKEN=TOKEN)

    assert told["v2"][0][0] == "WARNING"
    assert "without `version_header` in the plan" in told["v2"][0][1]


def test_every_url_is_asked_and_named(terminal: Terminal) -> None:
    with served(says("fine")) as fine, served(says("broken", "503 Later")) as broken:
        told = lines(terminal, "--url", broken, "--url", fine, code=1)["service"]

    assert [(level, message.rpartition(" – ")[2]) for level, message in told if "no X-" not in message] == [
        ("ERROR", broken),
        ("SUCCESS", fine),
    ]


def test_a_redirect_takes_no_secret_to_another_host(terminal: Terminal) -> None:
    heard: list[str] = []

    def other(environ: Any, start_response: Any) -> list[bytes]:
        heard.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return []

    def moved(environ: Any, start_response: Any) -> list[bytes]:
        start_response("302 Found", [("Location", elsewhere)])
        return []

    with served(other) as elsewhere, served(moved) as url:
        told = lines(terminal, "--url", url, "--header", "Authorization: Bearer x", CANARY_OVERRIDE_TOKEN=TOKEN)

    assert "302" in told["service"][0][1]
    assert heard == []


def test_nothing_is_left_in_the_store(terminal: Terminal) -> None:
    before = (terminal.store.read(), list(terminal.store.history()))

    lines(terminal)

    assert (terminal.store.read(), list(terminal.store.history())) == before
    assert terminal.store.kept("canary-test") is None


def test_headers_methods_and_timeouts_are_the_callers(terminal: Terminal) -> None:
    seen: list[tuple[str, str]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append((environ["REQUEST_METHOD"], environ.get("HTTP_X_TENANT", "")))
        start_response("200 OK", [])
        return []

    with served(app) as url:
        lines(terminal, "--url", url, "--header", "X-Tenant: acme", "--method", "head")

    assert seen == [("HEAD", "acme")]
    assert terminal.run("test", "--header", "nonsense").exit_code == 2
    assert terminal.run("test", "--timeout", "soon").exit_code == 2


def test_workers_that_are_behind_are_an_error(terminal: Terminal) -> None:
    terminal.ok("set", "5")
    terminal.beat("host:1:behind", revision=0)

    assert lines(terminal, code=1)["workers"] == [("ERROR", "behind revision 1: host:1:behind")]


def test_two_tests_at_once_do_not_disturb_each_other(terminal: Terminal) -> None:
    terminal.store.acquire("canary-test", "somebody else", 30)

    assert "somebody else runs this test" in lines(terminal)["store"][0][1]


def test_a_collector_gets_a_real_span(terminal: Terminal) -> None:
    with OtlpReceiver() as otlp:
        told = terminal.run("test", **otlp.env(service="checkout"))
        eventually(lambda: [span for span in otlp.spans() if span.name == "canary.test"])

    assert "took the span 'canary.test'" in told.stdout


def test_a_collector_that_is_away_is_an_error_with_its_reason(terminal: Terminal) -> None:
    told = terminal.run("test", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")

    assert told.exit_code == 1
    assert "did not take a span" in told.stdout
    assert "refused" in told.stdout


def test_a_plan_file_is_read_as_the_service_would(terminal: Terminal, tmp_path: Path) -> None:
    careless = tmp_path / "canary.json"
    careless.write_text(
        json.dumps(
            {"rollout": {"checkout": {"fallback": "never", "stages": [60], "key": ["anonymous"], "enabled": False}}}
        )
    )
    careful = tmp_path / "careful.json"
    careful.write_text(json.dumps({"store": "memory:", "rollout": {"checkout": GOOD}}))
    broken = tmp_path / "broken.json"
    broken.write_text('{"rollout": {"checkout": {"stagse": [10]}}}')

    remarks = "\n".join(message for _, message in lines(terminal, "config", str(careless))["plan"])
    clean = lines(terminal, "config", str(careful), CANARY_OVERRIDE_TOKEN=TOKEN)["plan"]
    refused = terminal.run("test", "config", str(broken))

    for part in (
        *("`fallback` is never", "the step from 0 % to 60 %", "the last stage is 60 %", "`anonymous` without a secret"),
        *("no `guardrails`", "no `criteria`", "`enabled` is false", "CANARY_OVERRIDE_TOKEN is not set"),
    ):
        assert part in remarks
    assert clean == [("SUCCESS", "✓ read: checkout"), ("SUCCESS", "✓ nothing to remark")]
    assert refused.exit_code == 2
    assert "did you mean 'stages'" in refused.stderr


def test_a_plan_without_key_store_or_enough_evidence_is_remarked_on(terminal: Terminal, tmp_path: Path) -> None:
    plan = tmp_path / "canary.json"
    thin = {"criteria": {"error_rate": {"max": 0.01}}, "enforce": False}
    plan.write_text(json.dumps({"rollout": {"checkout": thin}}))

    remarks = "\n".join(
        message for _, message in lines(terminal, "config", "--plan", str(plan), CANARY_STORE="")["plan"]
    )

    for part in ("no `key`", "no `criteria.min_requests`", "`enforce` is false"):
        assert part in remarks


def test_no_plan_says_how_to_name_one(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert "which plan?" in terminal.run("test", "config").stderr


def test_a_route_is_explained(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Before checkout, which covers every path.
    terminal.declare("browse", endpoints=["GET /search/{query}"], exclude=["/search/health"])
    terminal.ok("set", "100", "browse", "--yes")

    told = terminal.json("test", "route", "--user", "amy", "--path", "/search/shoes")
    text = terminal.ok("test", "route", "--user", "amy", "--path", "/search/shoes")
    nobody = terminal.ok("test", "route", "--path", "/search/shoes")
    excluded = terminal.ok("test", "route", "--path", "/search/health")
    other = terminal.json("test", "route", "--path", "/elsewhere", "--user", "amy")

    assert (told["rollout"], told["version"], told["reason"]) == ("browse", "v2", "weight")
    assert "is covered by browse (/search/{query})" in text
    assert "the hash decides" in text
    assert "the request has no identity" in nobody
    assert "'/search/health' excludes it" in excluded
    assert other["rollout"] == "checkout"


def test_segments_are_explained_by_headers_and_attributes(terminal: Terminal) -> None:
    terminal.declare(
        "browse",
        endpoints=["/search"],
        segments=[
            {"name": "eu", "when": {"header": "x-region", "in": ["eu"]}, "weight": 100},
            {"name": "staff", "when": {"attribute": "role", "in": ["staff"]}, "version": "v2"},
        ],
    )
    ask = ("test", "route", "--path", "/search", "--user", "amy")

    assert terminal.json(*ask)["version"] == "v1"
    assert terminal.json(*ask, "--header", "X-Region: eu")["reason"] == "segment"
    assert terminal.json(*ask, "--attribute", "role=staff")["version"] == "v2"
    assert terminal.run(*ask, "--attribute", "staff").exit_code == 2


def test_a_path_that_no_rollout_covers_is_said_so(tmp_path: Path, terminal: Terminal) -> None:
    terminal.ok("test", "--help")
    from canary_middleware import open_store

    from .conftest import Terminal as Another

    store = open_store(f"sqlite:///{tmp_path}/other.db")
    other = Another(store.url, store)
    other.declare("search", endpoints=["/search"])

    assert "no rollout covers it" in other.ok("test", "route", "--path", "/x")
    store.close()
