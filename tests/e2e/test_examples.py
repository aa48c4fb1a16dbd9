"""
The examples, each through its real server with a real client and a real OTLP receiver.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary
from tests.support import servers
from tests.support.client import Client, Request, drive
from tests.support.otlp import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.support.client import Response

EXAMPLES = Path(__file__).parents[2] / "examples"
DURATION = "canary.server.request.duration"
USERS = [f"user-{number}" for number in range(400)]


@pytest.fixture
def otlp() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def plan_of(example: str, **environ: str) -> Canary:
    """The example's plan in this process: what its servers must agree with, user by user."""
    return Canary.load(EXAMPLES / example / "canary.toml", environ=environ)


def version(response: Response) -> str | None:
    return response.header("x-canary-version")


def served(responses: Iterable[Response]) -> Counter[str | None]:
    return Counter(version(response) for response in responses)


def is_fallback(response: Response) -> bool:
    return response.header("x-canary-fallback") == "1"


def assert_arrived(otlp: OtlpReceiver, expected: dict[str | None, int], **attributes: Any) -> None:
    """The metrics and the server spans hold, by version, exactly what the client saw."""

    def metrics() -> dict[str | None, int]:
        return {name: otlp.histogram_count(DURATION, canary_version=name, **attributes) for name in expected}

    def spans() -> dict[str | None, int]:
        return {name: len(otlp.spans(kind="SERVER", canary_version=name, **attributes)) for name in expected}

    otlp.wait_for(lambda: metrics() == expected)
    otlp.wait_for(lambda: spans() == expected)


# -- FastAPI -----------------------------------------------------------------------------------------------------------

FASTAPI = "examples.fastapi_recommendations.app:app"
API = "/api/v2"


def recommend(user: str) -> Request:
    body = f'{{"user_id": "{user}", "query": "jazz"}}'.encode()
    headers = {"content-type": "application/json"}
    return Request(f"{API}/recommend/personalized", method="POST", headers=headers, body=body)


def test_fastapi_serves_each_user_the_version_of_its_hash_and_reports_it(otlp: OtlpReceiver) -> None:
    plan = plan_of("fastapi_recommendations")
    with servers.uvicorn(FASTAPI, env=otlp.env()) as server:
        first = drive(server.url, map(recommend, USERS), connections=8)
        second = drive(server.url, map(recommend, reversed(USERS)), connections=8)

        assert [version(one) for one in first] == [plan.version_for(user) for user in USERS]
        assert [version(one) for one in reversed(second)] == [version(one) for one in first]
        assert {one.status for one in first + second} == {200}
        assert 20 <= served(first)["v2"] <= 60  # 10 % of 400, four standard deviations to either side
        assert_arrived(otlp, dict(served(first + second)))
        # The spans inside the handlers too, not only the server's own.
        looked_up = {(span.name, span.attributes["canary.version"]) for span in otlp.spans(kind="CLIENT")}
        assert looked_up == {("sales lookup", "v1"), ("profile lookup", "v2")}


@pytest.mark.parametrize("weight", ["0", "100"])
def test_fastapi_answers_all_seven_endpoints_in_both_versions(weight: str, otlp: OtlpReceiver) -> None:
    expected = "v2" if weight == "100" else "v1"
    user = {"user_id": "somebody"}
    with (
        servers.uvicorn(FASTAPI, env={**otlp.env(), "API_V2_TRAFFIC_PERCENTAGE": weight}) as server,
        Client(server.url, headers={"x-user-id": "somebody"}) as client,
    ):
        started = client.post(f"{API}/conversations/start", user)
        conversation = f"{API}/conversations/{started.json()['session_id']}"
        answers = [
            client.post(f"{API}/recommend/personalized", user),
            client.post(f"{API}/recommend/compare", {**user, "items": ["jazz-001", "space-002"]}),
            client.post(f"{conversation}/turn", {**user, "text": "something about chess"}),
            client.get(conversation),
            client.get(f"{API}/conversations?user_id=somebody"),
            client.post(f"{conversation}/close", user),
        ]
        health = client.get("/health")

        assert {version(one) for one in (started, *answers)} == {expected}
        assert [one.status for one in (started, *answers)] == [201, 200, 200, 200, 200, 200, 200]
        assert (health.status, version(health)) == (200, None)
        assert len(answers[0].json()["items"]) == 5
        assert sorted(answers[1].json()["items"]) == ["jazz-001", "space-002"]
        assert answers[3].json() == answers[2].json()
        assert "chess" in answers[3].json()["turns"][0]["answered"]
        assert answers[5].json()["is_open"] is False
        otlp.wait_for(lambda: otlp.histogram_count(DURATION) == 7)
        routes = {point.attributes["http.route"] for point in otlp.metrics(DURATION)}
        assert routes == {
            template.split()[1] for template in plan_of("fastapi_recommendations").rollout().plan.endpoints
        }


def test_fastapi_answers_a_get_with_v1_where_v2_fails_and_leaves_a_post_alone(otlp: OtlpReceiver) -> None:
    env = {**otlp.env(), "API_V2_TRAFFIC_PERCENTAGE": "100", "RECOMMENDER_V2_FAULT": "every-3rd"}
    glances = [Request(f"{API}/conversations?user_id={user}") for user in USERS[:90]]
    with servers.uvicorn(FASTAPI, env=env) as server:
        answers = drive(server.url, glances)
        posts = drive(server.url, map(recommend, USERS[:9]), connections=1)

        assert {one.status for one in answers} == {200}
        assert sum(map(is_fallback, answers)) == 30
        assert {version(one) for one in answers if is_fallback(one)} == {"v1"}
        assert [one.status for one in posts].count(500) == 3
        otlp.wait_for(lambda: otlp.histogram_count(DURATION) == 99)
        assert otlp.counter_total("canary.fallbacks", canary_version="v2", error_type="InjectedFault") == 30
        assert otlp.histogram_count(DURATION, canary_version="v2", error_type="InjectedFault") == 33


# -- Flask -------------------------------------------------------------------------------------------------------------

FLASK = "examples.flask_market_signals.app:app"
FEATURES = {"anomaly_detection": "anomalies", "limit_up_prediction": "limit-up"}


def open_sessions(url: str, count: int) -> dict[str, dict[str, str]]:
    """Session id → the header that carries its cookie."""
    opened = drive(url, [Request("/api/sessions", method="POST")] * count)
    return {one.json()["session_id"]: {"cookie": (one.header("set-cookie") or "").partition(";")[0]} for one in opened}


def ask(url: str, path: str, sessions: dict[str, dict[str, str]]) -> list[Response]:
    return drive(url, [Request(path, headers=cookie) for cookie in sessions.values()])


def test_flask_gives_each_session_the_engine_of_its_hash_in_each_feature(otlp: OtlpReceiver) -> None:
    plan = plan_of("flask_market_signals")
    with servers.gunicorn(FLASK, workers=2, env=otlp.env()) as server:
        sessions = open_sessions(server.url, 300)
        sets = {}
        for feature, path in FEATURES.items():
            expected = [plan.version_for(session, rollout=feature) for session in sessions]
            first = ask(server.url, f"/api/signals/ACME/{path}", sessions)
            again = ask(server.url, f"/api/signals/OTHER/{path}", sessions)

            assert [version(one) for one in first] == expected
            assert [version(one) for one in again] == expected
            assert [one.json()["engine"] for one in first] == expected
            assert 9 <= expected.count("signals") <= 51  # 10 % of 300, four standard deviations to either side
            assert_arrived(otlp, dict(served(first + again)), canary_rollout=feature)
            sets[feature] = expected
        assert sets["anomaly_detection"] != sets["limit_up_prediction"]


def test_flask_asks_for_each_feature_by_name_where_one_answer_holds_both() -> None:
    plan = plan_of("flask_market_signals")
    with servers.gunicorn(FLASK, workers=2) as server:
        sessions = open_sessions(server.url, 100)
        answers = ask(server.url, "/api/signals/ACME", sessions)

    for session, answer in zip(sessions, answers, strict=True):
        assert version(answer) is None
        for feature in FEATURES:
            assert answer.json()[feature]["engine"] == plan.version_for(session, rollout=feature)


def test_flask_answers_with_the_legacy_engine_where_the_new_one_fails(otlp: OtlpReceiver) -> None:
    plan = plan_of("flask_market_signals")
    with servers.gunicorn(FLASK, workers=2, env=otlp.env()) as server:
        sessions = open_sessions(server.url, 200)
        answers = ask(server.url, "/api/signals/HALTED/anomalies", sessions)
        by_name = ask(server.url, "/api/signals/HALTED", sessions)

        expected = [plan.is_canary(session, rollout="anomaly_detection") for session in sessions]
        assert [is_fallback(one) for one in answers] == expected
        assert {(one.status, one.json()["engine"]) for one in answers} == {(200, "legacy")}
        assert {one.status for one in by_name} == {200}
        failures = sum(expected)
        assert failures > 0
        otlp.wait_for(lambda: otlp.histogram_count(DURATION, canary_rollout="anomaly_detection") == 200)
        assert otlp.counter_total("canary.fallbacks", canary_version="signals") == failures
        assert otlp.histogram_count(DURATION, canary_version="signals", error_type="ZeroDivisionError") == failures


def test_flask_reports_the_health_of_both_engines() -> None:
    with servers.gunicorn(FLASK, workers=2) as server, Client(server.url) as client:
        health = client.get("/health")

    assert (health.status, health.json()) == (200, {"legacy": "healthy", "signals": "healthy"})


# -- Django ------------------------------------------------------------------------------------------------------------

WSGI = "examples.django_cms.wsgi:application"
ASGI = "examples.django_cms.asgi:application"


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the README's two commands leave it."""
    path = tmp_path_factory.mktemp("cms") / "seeded.sqlite3"
    for command in ("migrate", "seed"):
        manage(command, database=path)
    return path


@pytest.fixture
def database(seeded: Path, tmp_path: Path) -> Path:
    path = tmp_path / "cms.sqlite3"
    path.write_bytes(seeded.read_bytes())
    return path


def manage(*args: str, database: Path) -> str:
    root = EXAMPLES.parent
    environ = {
        **os.environ,
        "CMS_DATABASE": str(database),
        "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]),
    }
    command = [sys.executable, str(EXAMPLES / "django_cms" / "manage.py"), *args]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def views_of(database: Path) -> dict[int, int]:
    """Post id → how often it was read."""
    return dict(rows(database, "select id, views from cms_post"))


def reads(users: Sequence[str]) -> list[Request]:
    """Each user reads a post and the tags, in turn."""
    paths = (f"/api/posts/{number % 20 + 1}/" if number % 2 else "/api/tags/" for number in range(len(users)))
    return [Request(path, headers={"x-user-id": user}) for path, user in zip(paths, users, strict=True)]


@pytest.mark.parametrize("server_kind", ["gunicorn", "uvicorn"])
def test_django_serves_each_user_the_urlconf_of_its_hash(server_kind: str, database: Path, otlp: OtlpReceiver) -> None:
    plan = plan_of("django_cms")
    env = {**otlp.env(), "CMS_DATABASE": str(database)}
    start = servers.gunicorn(WSGI, workers=2, env=env) if server_kind == "gunicorn" else servers.uvicorn(ASGI, env=env)
    with start as server:
        first = drive(server.url, reads(USERS))
        second = drive(server.url, reads(USERS))

        assert [version(one) for one in first] == [plan.version_for(user) for user in USERS]
        assert [version(one) for one in second] == [version(one) for one in first]
        assert {one.status for one in first + second} == {200}
        assert 20 <= served(first)["v2"] <= 60
        assert sum(views_of(database).values()) == len(USERS)
        assert_arrived(otlp, dict(served(first + second)))
        routes = {point.attributes["http.route"] for point in otlp.metrics(DURATION)}
        assert routes == {"/api/posts/<int:post_id>/", "/api/tags/"}


def test_django_v2_gives_the_same_answers_from_fewer_queries(database: Path, otlp: OtlpReceiver) -> None:
    answers = {}
    for name, weight in (("v1", "0"), ("v2", "100")):
        env = {**otlp.env(), "CMS_DATABASE": str(database), "API_V2_TRAFFIC_PERCENTAGE": weight}
        with servers.gunicorn(WSGI, workers=2, env=env) as server, Client(server.url) as client:
            person = {"email": f"{name}@example.org", "name": "Somebody"}
            found = [
                client.get("/api/posts/7/", x_user_id="a"),
                client.get("/api/posts/999/", x_user_id="a"),
                client.get("/api/tags/", x_user_id="a"),
                client.post("/api/users/", person, headers={"x-user-id": "a"}),
                client.post("/api/users/", person, headers={"x-user-id": "a"}),
                client.post("/api/users/", {"email": "nobody"}, headers={"x-user-id": "a"}),
            ]
        assert {version(one) for one in found} == {name}
        assert [one.status for one in found] == [200, 404, 200, 201, 409, 400]
        answers[name] = [found[0].json() | {"views": 0}, found[2].json(), found[3].json()["name"], found[5].json()]

    assert answers["v1"] == answers["v2"]
    assert [row[0] for row in rows(database, "select email from cms_member where name = 'Somebody'")] == [
        "v1@example.org",
        "v2@example.org",
    ]

    def queries(of: str, route: str) -> list[int]:
        found = otlp.spans(kind="SERVER", canary_version=of, http_route=route, http_response_status_code=200)
        return [span.attributes["canary.db.operation.count"] for span in found]

    for route in ("/api/posts/<int:post_id>/", "/api/tags/"):
        otlp.wait_for(lambda: all(queries(name, route) for name in ("v1", "v2")))  # noqa: B023 - called at once
        assert max(queries("v2", route)) < min(queries("v1", route))


def test_django_takes_the_failed_versions_writes_back_before_v1_answers(database: Path, otlp: OtlpReceiver) -> None:
    fault = {"API_V2_TRAFFIC_PERCENTAGE": "100", "CMS_V2_FAULT": "every-3rd"}
    reading = [Request("/api/posts/3/", headers={"x-user-id": user}) for user in USERS[:60]]
    with servers.gunicorn(WSGI, workers=2, env={**otlp.env(), "CMS_DATABASE": str(database), **fault}) as server:
        answers = drive(server.url, reading)

        rescued = [one for one in answers if is_fallback(one)]
        assert {one.status for one in answers} == {200}
        # Every third of each worker's own calls: 60 requests on two workers lose at most one third each.
        assert 18 <= len(rescued) <= 20
        assert {version(one) for one in rescued} == {"v1"}
        # Each answer was the only one to count its view, though v2 had counted before it failed.
        assert sorted(one.json()["views"] for one in answers) == list(range(1, 61))
        assert views_of(database)[3] == 60
        otlp.wait_for(lambda: otlp.histogram_count(DURATION) == 60)
        assert otlp.counter_total("canary.fallbacks", canary_version="v2") == len(rescued)


def test_django_leaves_no_row_of_a_registration_that_failed(database: Path) -> None:
    env = {"CMS_DATABASE": str(database), "API_V2_TRAFFIC_PERCENTAGE": "100", "CMS_V2_FAULT": "every-2nd"}
    with servers.gunicorn(WSGI, workers=2, env=env) as server, Client(server.url, headers={"x-user-id": "a"}) as client:
        answers = {
            f"new{number}@example.org": client.post("/api/users/", {"email": f"new{number}@example.org", "name": "New"})
            for number in range(20)
        }

    created = {email for email, answer in answers.items() if answer.status == 201}
    assert Counter(answer.status for answer in answers.values()).keys() == {201, 500}
    assert {row[0] for row in rows(database, "select email from cms_member where name = 'New'")} == created


def test_django_refuses_to_start_with_a_weight_that_is_none(database: Path) -> None:
    env = {"CMS_DATABASE": str(database), "API_V2_TRAFFIC_PERCENTAGE": "101"}
    with pytest.raises(servers.ServerFailed, match=r"API_V2_TRAFFIC_PERCENTAGE.*101"), servers.uvicorn(ASGI, env=env):
        pass


def test_django_example_passes_djangos_own_checks(database: Path) -> None:
    assert "no issues" in manage("check", database=database)
    assert "No changes" in manage("makemigrations", "--check", "--dry-run", database=database)
