"""The admin API below a path of the service's own: for whoever may come in, and no part of the service's traffic."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_header
from canary_middleware.admin import Admin
from canary_middleware.errors import ConfigError
from canary_middleware.testing import recorded

from .behaviour import says

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .behaviour import Answer
    from .drivers import Client, Driver

TOKEN = "a-token-of-some-length"
READ = "another-one-for-looking"
BOTH = {"v1": says("one"), "v2": says("two")}
ADMIN = Admin("/admin/canary", token=TOKEN, read_token=READ)


class Steward:
    """Talks to the admin API through a driver's client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def get(self, target: str, token: str | None = TOKEN, method: str = "GET", **headers: str) -> Answer:
        given = {**headers, **({} if token is None else {"authorization": f"Bearer {token}"})}
        return self.client(method, f"/admin/canary{target}", headers=given)

    def post(self, target: str, body: Any = None, token: str | None = TOKEN, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        given = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        return self.client("POST", f"/admin/canary{target}", headers=given, body=data)


def make(**fields: Any) -> Canary:
    return Canary("checkout", key=[by_header("x-user-id")], stages=[10, 50, 100], environ={}, **fields)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = make(store=f"sqlite:///{tmp_path}/canary.db")
    yield canary
    canary.close()


def data(answer: Answer, status: int = 200) -> Any:
    assert answer.status == status, answer.text
    return json.loads(answer.text)


def test_the_whole_rollout_over_http(driver: Driver, canary: Canary) -> None:
    with driver.serve(canary, BOTH, admin=ADMIN) as client:
        steward = Steward(client)
        assert client(headers={"x-user-id": "amy"}).text == "one"
        state = data(steward.get("/status"))
        steps = []
        for verb in ("/start", "/advance", "/advance", "/advance", "/advance"):
            state = data(steward.post(verb, {"revision": state["revision"], "reason": "by hand"}))
            steps.append((state["weight"], state["phase"]))
        now = client(headers={"x-user-id": "amy"}).text

        assert steps == [
            (10, "progressing"),
            (50, "progressing"),
            (100, "progressing"),
            (100, "baking"),
            (100, "completed"),
        ]
        assert now == "two"
        assert [(row["verb"], row["actor"]) for row in data(steward.get("/history?limit=2"))] == [
            ("promote", "admin-token"),
            ("promote", "admin-token"),
        ]


def test_its_requests_are_neither_assigned_nor_counted(driver: Driver) -> None:
    canary = make(weight=100)

    with driver.serve(canary, BOTH, admin=ADMIN) as client, recorded(canary) as outcomes:
        Steward(client).get("/status")
        Steward(client).post("/pause", b"nonsense")
        Steward(client).get("/nothing")
        answer = Steward(client).get("/metrics", token=None)

    assert outcomes == []
    assert not [name for name, _ in answer.headers if name.lower().startswith("x-canary")]


@pytest.mark.parametrize("path", ["/admin/canaries", "/admin", "/x/admin/canary/status", "/admin/canary.json"])
def test_its_neighbours_are_the_services_own(driver: Driver, path: str) -> None:
    with driver.serve(make(weight=100), BOTH, admin=ADMIN) as client:
        assert client(target=path, headers={"x-user-id": "amy"}).text == "two"


def test_without_the_option_there_is_none(driver: Driver) -> None:
    with driver.serve(make(weight=100), BOTH) as client:
        assert client(target="/admin/canary/status", headers={"x-user-id": "amy"}).text == "two"


def test_nobody_comes_in_without_a_token(driver: Driver) -> None:
    with driver.serve(make(), BOTH, admin=ADMIN) as client:
        steward = Steward(client)
        for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", "größer", "\x00"):
            refused = steward.get("/status", token=token)
            assert refused.status == 401
            assert ("www-authenticate", 'Bearer realm="canary"') in [(k.lower(), v) for k, v in refused.headers]
        assert client(target=f"/admin/canary/status?token={TOKEN}").status == 401
        assert steward.get("/status", token=None, authorization=f"Basic {TOKEN}").status == 401
        assert steward.post("/emergency", token=None).status == 401


def test_who_may_look_may_not_steer(driver: Driver) -> None:
    with driver.serve(make(), BOTH, admin=ADMIN) as client:
        steward = Steward(client)

        assert steward.get("/status", token=READ).status == 200
        assert "may look" in data(steward.post("/emergency", token=READ), 403)["detail"]
        assert data(steward.get("/status"))["phase"] == "idle"


def test_figures_have_the_names_of_the_metrics_endpoint(driver: Driver) -> None:
    with driver.serve(make(weight=50), BOTH, admin=ADMIN) as client:
        for n in range(20):
            client(headers={"x-user-id": f"user-{n}"})
        text = data(Steward(client).get("/metrics"))
        raw = data(Steward(client).get("/metrics?raw=1"))
        endpoints = data(Steward(client).get("/endpoints?raw=true"))

    assert list(text) == ["legacy", "canary", "comparison"]
    assert list(text["legacy"]) == [
        *("version", "request_count", "error_count", "error_rate"),
        *("avg_response_time_ms", "p95_response_time_ms", "p99_response_time_ms"),
    ]
    assert text["legacy"]["error_rate"] == "0.00%"
    assert raw["legacy"]["request_count"] + raw["canary"]["request_count"] == 20
    assert raw["canary"]["error_rate"] == 0.0
    assert sum(one["legacy"]["request_count"] + one["canary"]["request_count"] for one in endpoints.values()) == 20


def test_a_change_decided_on_an_old_state_is_refused_and_told_who_was_first(driver: Driver, canary: Canary) -> None:
    with driver.serve(canary, BOTH, admin=ADMIN) as client:
        steward = Steward(client)
        data(steward.post("/set", {"weight": 5, "revision": 0}, x_canary_actor="ann"))
        late = data(steward.post("/set", {"weight": 90, "revision": 0}, x_canary_actor="bob"), 409)
        stopped = data(steward.post("/rollback", {"reason": "errors"}))

    assert "changed by admin-token (ann)" in late["detail"]
    assert (stopped["phase"], stopped["phase_reason"], stopped["weight"]) == ("rolled_back", "errors", 0)


def test_a_rollback_and_the_emergency_need_no_revision(driver: Driver) -> None:
    with driver.serve(make(weight=50), BOTH, admin=ADMIN) as client:
        steward = Steward(client)

        assert data(steward.post("/emergency"))[0]["phase"] == "locked"
        # Pressed twice it stops twice: this worker may not know that somebody let go in between.
        assert data(steward.post("/emergency"))[0]["phase"] == "locked"
        assert data(steward.post("/emergency", {"state": "off"}))[0]["phase"] == "rolled_back"
        assert data(steward.post("/retry", {}), 400)["detail"].startswith("revision must be there")
        assert client(headers={"x-user-id": "amy"}).text == "one"


WRONG: dict[str, tuple[str, Any, int, str]] = {
    "no weight": ("/set", {"revision": 0}, 400, "weight must be there"),
    "a text": ("/set", {"weight": "25", "revision": 0}, 400, "weight is '25'"),
    "too much": ("/set", {"weight": 101, "revision": 0}, 400, "must be 0 … 100"),
    "below nothing": ("/set", {"weight": -1, "revision": 0}, 400, "must be 0 … 100"),
    "no number": ("/set", b'{"weight": NaN, "revision": 0}', 400, "NaN is no number"),
    "twice": ("/set", b'{"weight": 1, "weight": 100, "revision": 0}', 400, "stands twice"),
    "mistyped": ("/set", {"wieght": 5, "weight": 5, "revision": 0}, 400, "did you mean 'weight'"),
    "a list": ("/set", b"[5]", 400, "must be an object"),
    "cut short": ("/set", b'{"weight": 5', 400, "is no JSON"),
    "deep": ("/set", b"[" * 60_000, 400, "is no JSON"),
    "too long": ("/set", b" " * 70_000, 413, "longer than 65,536 bytes"),
    "a revision of text": ("/set", {"weight": 5, "revision": "0"}, 400, "revision is '0'"),
    "no such rollout": ("/set", {"weight": 5, "revision": 0, "rollout": "chekout"}, 400, "did you mean 'checkout'"),
    "nothing to resume": ("/resume", {"revision": 0}, 422, "neither paused nor holding"),
    "half a state": ("/emergency", {"state": "half"}, 400, "must be one of on, off"),
    "not there": ("/sett", {}, 404, "there is no '/sett' here"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_and_changes_nothing(driver: Driver, case: str) -> None:
    path, body, status, said = WRONG[case]
    canary = make()

    with driver.serve(canary, BOTH, admin=ADMIN) as client:
        problem = data(Steward(client).post(path, body), status)

    assert said in problem["detail"]
    assert problem["status"] == status
    assert canary.rollout().revision == 0


def test_a_body_that_is_cut_short_does_not_pass_for_an_empty_one(driver: Driver) -> None:
    canary = make(weight=50)
    given = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}

    with driver.serve(canary, BOTH, admin=ADMIN) as client:
        client("POST", "/admin/canary/rollback", headers={**given, "content-length": "20"}, body=b"", cut=True)
        client("POST", "/admin/canary/rollback", headers=given, body=b'{"to_pre', cut=True)

    assert canary.rollout().revision == 0


def test_a_body_without_a_length_is_read_or_refused_and_never_taken_for_an_empty_one(driver: Driver) -> None:
    canary = make(weight=50)

    with driver.serve(canary, BOTH, admin=ADMIN) as client:
        steward = Steward(client)
        off = steward.post("/emergency", {"state": "off"}, transfer_encoding="chunked")
        endless = steward.post("/set", b" " * 70_000, transfer_encoding="chunked")

    assert (off.status, endless.status) in ((200, 413), (411, 411))
    assert canary.rollout().revision == 0


def test_a_body_in_many_pieces_is_one_body(driver: Driver, canary: Canary) -> None:
    pieces = {"chunk_size": 3} if driver.is_async else {}
    given = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json; charset=utf-8"}

    with driver.serve(canary, BOTH, admin=ADMIN) as client:
        body = json.dumps({"weight": 5.25, "revision": 0}).encode()
        answer = client("POST", "/admin/canary/set", headers=given, body=body, **pieces)

    assert data(answer)["weight"] == 5.25


def test_ten_megabytes_are_refused_unread(driver: Driver) -> None:
    taken: list[int] = []
    pieces = {"chunk_size": 65_536} if driver.is_async else {}
    given = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}

    with driver.serve(make(), BOTH, admin=ADMIN) as client:
        answer = client("POST", "/admin/canary/set", headers=given, body=b" " * 10_485_760, taken=taken, **pieces)

    assert data(answer, 413)["detail"] == "the body is longer than 65,536 bytes"
    # Django's ASGI handler takes a body before any middleware is asked; its own limits hold there.
    assert driver.name == "django-async" or sum(taken) <= 2 * 65_536


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE", "HEAD"])
def test_no_other_method_changes_anything(driver: Driver, method: str) -> None:
    canary = make(weight=50)

    with driver.serve(canary, BOTH, admin=ADMIN) as client:
        steward = Steward(client)
        answer = steward.get("/emergency", method=method)
        stranger = steward.get("/emergency", method=method, token=None)

    assert (answer.status, stranger.status) == (405, 401)
    assert ("allow", "POST") in [(name.lower(), value) for name, value in answer.headers]
    assert canary.rollout().revision == 0


def test_methods_and_media_types_are_held_to(driver: Driver) -> None:
    with driver.serve(make(), BOTH, admin=ADMIN) as client:
        steward = Steward(client)
        wrong_method = steward.get("/set")
        form = steward.post("/emergency", b"state=on", content_type="application/x-www-form-urlencoded")
        head = steward.get("/status", method="HEAD")
        posted = steward.post("/status")

    assert (wrong_method.status, posted.status, form.status, head.status) == (405, 405, 415, 200)
    assert ("allow", "POST") in [(name.lower(), value) for name, value in wrong_method.headers]
    assert head.body == b""
    kept = {name.lower(): value for name, value in head.headers}
    assert kept["cache-control"] == "no-store"


def test_questions_that_cannot_be_answered_say_what_can(driver: Driver) -> None:
    with driver.serve(make(), BOTH, admin=ADMIN) as client:
        steward = Steward(client)

        assert "user must be there" in data(steward.get("/explain"), 400)["detail"]
        assert data(steward.get("/explain?user=amy"))["version"] == "v1"
        assert "known are: none yet" in data(steward.get("/metrics?endpoint=/x"), 404)["detail"]
        assert "did you mean 'endpoint'?" in data(steward.get("/metrics?endpont=/x"), 400)["detail"]
        assert data(steward.get(f"/explain?user={'x' * 7000}"))["version"] == "v1"
        assert "raw = 'maybe'" in data(steward.get("/metrics?raw=maybe"), 400)["detail"]
        for limit in ("0", "x", "-1", "1001", "9" * 5000):
            assert "must be a whole number, 1 … 1000" in data(steward.get(f"/history?limit={limit}"), 400)["detail"]
        assert data(steward.get("/history")) == []
        assert steward.get("/").status == 404


def test_an_authenticator_of_the_apps_own_is_asked_and_other_sites_are_refused(driver: Driver) -> None:
    from canary_middleware.admin import Principal

    asked: list[object] = []

    def authenticate(native: object) -> Principal | None:
        asked.append(native)
        return Principal("ann") if len(asked) > 1 else None

    admin = Admin("/admin/canary", authenticator=authenticate)
    with driver.serve(make(), BOTH, admin=admin) as client:
        steward = Steward(client)
        first = steward.get("/status", token=None)
        cross = steward.post("/emergency", token=None, host="shop.example", origin="https://evil.example")
        fetched = steward.post("/emergency", token=None, sec_fetch_site="cross-site")
        own = steward.post(
            "/emergency", token=None, host="shop.example", origin="https://shop.example", sec_fetch_site="same-origin"
        )

    assert (first.status, cross.status, fetched.status, own.status) == (401, 403, 403, 200)


def test_an_authenticator_that_fails_lets_nobody_in(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def fails(native: object) -> None:
        raise RuntimeError("the directory is away")

    with driver.serve(make(), BOTH, admin=Admin("/admin/canary", authenticator=fails)) as client:
        answer = Steward(client).post("/emergency", token=None)

    assert data(answer, 500)["detail"].startswith("RuntimeError")
    assert "the directory is away" in caplog.text


def test_it_is_described_for_programs(driver: Driver) -> None:
    with driver.serve(make(), BOTH, admin=ADMIN) as client:
        document = data(Steward(client).get("/openapi.json"))

    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {"/metrics", "/status", "/history", "/explain", "/set", "/rollback", "/emergency"}


def test_it_is_off_unless_somebody_could_come_in() -> None:
    from canary_middleware import wsgi

    with pytest.raises(ConfigError, match="CANARY_ADMIN_TOKEN"):
        wsgi.CanaryMiddleware(lambda *_: [], canary=make(), admin="/admin")
    with pytest.raises(ConfigError, match="shorter than 16"):
        wsgi.CanaryMiddleware(lambda *_: [], canary=make(), admin=Admin("/admin", token="secret"))
    with pytest.raises(ConfigError, match="must be a path below"):
        wsgi.CanaryMiddleware(lambda *_: [], canary=make(), admin=Admin("admin", token=TOKEN))
