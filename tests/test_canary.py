"""The one object an app makes: loaded from anywhere, asked outside requests, changed at run time."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, Stage, anonymous, by_header, current, handlers, telemetry
from canary_middleware._core.assignment.bucketing import bucket
from canary_middleware._core.exchange import Exchange, Failure, active
from canary_middleware._core.ports import BodyNotRead
from canary_middleware.errors import ConfigError, NoAssignment, TransitionRefused
from canary_middleware.testing import FakeClock, recorded

from .core.heads import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TOML = """
schema = 1
[rollout.checkout]
endpoints = ["GET /checkout/*"]
key = ["header:x-user-id"]
stages = [10, 50, 100]
duration = "30m"
"""
TABLE: dict[str, Any] = {
    "schema": 1,
    "rollout": {
        "checkout": {
            "endpoints": ["GET /checkout/*"],
            "key": ["header:x-user-id"],
            "stages": [10, 50, 100],
            "duration": "30m",
        }
    },
}
TWO: dict[str, Any] = {
    "rollout": {"anomaly_detection": {"endpoints": ["/anomalies"]}, "limit_up_prediction": {"endpoints": ["/limits"]}}
}


def checkout(environ: Mapping[str, str] | None = None, **fields: Any) -> Canary:
    fields.setdefault("key", ["header:x-user-id"])
    return Canary("checkout", environ=environ or {}, **fields)


def begin(served: Canary, user: str = "user", **head: Any) -> Exchange:
    exchange = served.begin(Head(headers={"x-user-id": user}, **head))
    assert exchange is not None
    return exchange


# -- loading ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_the_same_from_every_place(tmp_path: Path) -> None:
    toml, as_json, project = tmp_path / "canary.toml", tmp_path / "canary.json", tmp_path / "pyproject.toml"
    toml.write_text(TOML, encoding="utf-8")
    as_json.write_text(json.dumps(TABLE), encoding="utf-8")
    project.write_text(
        '[project]\nname = "shop"\n[tool.canary]\n' + TOML.replace("[rollout", "[tool.canary.rollout"), encoding="utf-8"
    )

    plans = [Canary.load(source, environ={}).plan for source in (toml, str(toml), as_json, project, TABLE)]

    assert all(plan == plans[0] for plan in plans)
    fields = TABLE["rollout"]["checkout"]
    assert Canary("checkout", environ={}, **fields).rollouts() == Canary.load(TABLE, environ={}).rollouts()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("canary.yaml", b"", "must end in .toml or .json"),
        ("canary.toml", None, "cannot be read: No such file"),
        ("canary.toml", b"\xff\xfe", "is not UTF-8"),
        ("canary.toml", b"[rollout", "is no TOML"),
        ("canary.toml", b"a = " + b"9" * 5_000, "is no TOML"),
        ("canary.json", b"{", "is no JSON"),
        ("canary.json", b"[" * 100_000, "is no JSON"),
        ("canary.json", b"[]", "holds a list: must be an object"),
        ("pyproject.toml", b"[project]", r"has no [tool.canary] table"),
        ("pyproject.toml", b"tool = 5", r"has no [tool.canary] table"),
        ("canary\0.toml", None, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_plan_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError) as error:
        Canary.load(file, environ={})

    assert said in str(error.value)
    assert repr(str(file)) in str(error.value)


def test_a_plan_without_a_rollout_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no rollout"):
        Canary.load({}, environ={})


# -- the environment -------------------------------------------------------------------------------------------------


def test_the_environment_sets_the_weight_exactly() -> None:
    served = checkout({"API_V2_TRAFFIC_PERCENTAGE": "12.5"}, weight=80)

    assert served.rollout().effective_ppm == 125_000
    assert served.explain("user")["weight"] == 12.5


def test_a_switched_off_canary_gives_everyone_stable_whatever_the_weight() -> None:
    served = checkout({"API_V2_ENABLED": "false", "API_V2_TRAFFIC_PERCENTAGE": "100"})

    assert (served.version_for("user"), served.assign("user").reason) == ("v1", "disabled")


def test_a_retired_stable_gives_everyone_the_canary() -> None:
    served = checkout({"USE_LEGACY_API_V1": "false"})

    assert (served.version_for("user"), served.version_for(None), served.assign("user").reason) == (
        "v2",
        "v2",
        "retired",
    )


@pytest.mark.parametrize("text", ["abc", "-1", "101"])
def test_a_wrong_weight_in_the_environment_stops_the_start(text: str) -> None:
    with pytest.raises(ConfigError, match=f"API_V2_TRAFFIC_PERCENTAGE='{text}'"):
        checkout({"API_V2_TRAFFIC_PERCENTAGE": text})


def test_a_pinned_weight_is_not_set_by_hand_but_still_rolled_back() -> None:
    served = checkout({"API_V2_TRAFFIC_PERCENTAGE": "10"})

    with pytest.raises(TransitionRefused, match="API_V2_TRAFFIC_PERCENTAGE in the environment pins it to 10 %"):
        served.set_weight(50)

    assert served.rollout().revision == 0
    assert served.roll_back().effective_ppm == 0


def test_by_default_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_V2_TRAFFIC_PERCENTAGE", "7")
    monkeypatch.setenv("CANARY_REGION", "eu-west-1")

    served = Canary("checkout")

    assert served.rollout().effective_ppm == 70_000
    assert served.region == "eu-west-1"


# -- binding sources -------------------------------------------------------------------------------------------------


def test_the_anonymous_cookie_takes_its_options_and_secret_from_plan_and_environment() -> None:
    served = Canary.load(
        {
            "anonymous": {"cookie": "visitor", "secret_env": "SECRET", "max_age": "1h", "secure": False},
            "rollout": {"checkout": {"key": ["anonymous"]}},
        },
        environ={"SECRET": "s3cret"},
    )
    head = Head()

    exchange = served.begin(head)

    assert exchange is not None
    assert head.new_id is not None
    assert len(head.new_id) == 32
    cookie = exchange.door.anonymous.set_cookie("abc")  # type: ignore[union-attr]
    assert cookie.startswith("visitor=abc.")
    assert cookie.endswith("; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax")


def test_an_anonymous_source_of_the_apps_own_keeps_its_options() -> None:
    served = checkout(key=[anonymous("mine", secure=False)])
    exchange = served.begin(Head())

    assert exchange is not None
    assert exchange.door.anonymous.cookie == "mine"  # type: ignore[union-attr]


def test_clients_behind_the_plans_proxies_are_told_apart() -> None:
    served = Canary.load(
        {"trusted_proxies": ["10.0.0.0/8"], "rollout": {"checkout": {"key": ["client"], "weight": 100}}}, environ={}
    )

    exchange = served.begin(Head(peer="10.0.0.1", headers={"x-forwarded-for": "198.51.100.7"}))

    assert exchange is not None
    assert exchange.assignment.bucket == bucket("198.51.100.7", salt="checkout")


def test_json_bodies_are_looked_into_up_to_the_plans_cap() -> None:
    served = checkout(key=["json:user_id", by_header("x-user-id")], json_cap="1KiB")
    small, large = b'{"user_id": "u"}', b'{"user_id": "u", "pad": "' + b"x" * 2_000 + b'"}'

    assert begin(served, "h", body=small).assignment.bucket == bucket("u", salt="checkout")
    assert begin(served, "h", body=large).assignment.bucket == bucket("h", salt="checkout")


# -- questions -------------------------------------------------------------------------------------------------------


def test_outside_a_request_the_answer_is_that_of_a_request() -> None:
    served = checkout(weight=30)

    for n in range(200):
        user = f"user-{n}"
        assert served.version_for(user) == begin(served, user).assignment.version
        assert served.is_canary(user) == (served.version_for(user) == "v2")
    assert [served.version_for(nobody) for nobody in (None, "")] == ["v1", "v1"]


def test_explain_says_where_an_identity_stands_and_when_it_enters() -> None:
    served = checkout(weight=50, stages=[10, 50])
    place = bucket("user-42", salt="checkout")

    found = served.explain("user-42")

    assert found == {
        "rollout": "checkout",
        "version": "v2" if place < 500_000 else "v1",
        "role": "canary" if place < 500_000 else "stable",
        "reason": "weight",
        "bucket": place,
        "weight": 50.0,
        "enters_at": (place + 1) / 10_000,
        "canary": "v2",
        "revision": 0,
    }
    served.set_weight(found["enters_at"])
    assert served.is_canary("user-42")
    served.set_weight(round(found["enters_at"] - 0.0001, 4))
    assert not served.is_canary("user-42")
    nobody = served.explain("")
    assert (nobody["version"], nobody["bucket"], nobody["enters_at"], nobody["canary"]) == ("v1", None, None, None)


def test_segments_are_decided_by_attributes_outside_a_request_too() -> None:
    served = checkout(segments=[{"name": "staff", "when": {"attribute": "tier", "in": ["staff"]}, "version": "v2"}])

    assert served.assign("user", attributes={"tier": "staff"}).version == "v2"
    assert served.assign("user").version == "v1"


def test_several_rollouts_are_asked_for_by_name() -> None:
    served = Canary.load(TWO, environ={})
    served.set_weight(100, rollout="limit_up_prediction")

    assert served.is_canary("user", rollout="limit_up_prediction")
    assert not served.is_canary("user", rollout="anomaly_detection")
    assert served.versions() == {"v1", "v2"}
    assert repr(served) == "<Canary anomaly_detection 0 % idle, limit_up_prediction 100 % paused>"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "which rollout? This Canary holds anomaly_detection, limit_up_prediction: pass rollout="),
        ("anomaly_detecton", "did you mean 'anomaly_detection'?"),
        ("zzz", "there are anomaly_detection, limit_up_prediction"),
    ],
)
def test_a_rollout_that_is_not_there_is_named_with_those_that_are(name: str | None, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Canary.load(TWO, environ={}).version_for("user", rollout=name)

    assert said in str(error.value)


def test_without_a_middleware_current_and_handlers_name_what_is_missing() -> None:
    view = handlers(lambda: "one", lambda: "two")

    for ask in (current, view):
        with pytest.raises(NoAssignment) as error:
            ask()
        assert "put CanaryMiddleware (or flask.init_app) around the app" in str(error.value)
        assert "canary.version_for(identity)" in str(error.value)


def test_inside_a_request_current_is_what_was_decided() -> None:
    served = checkout(weight=100)
    exchange = begin(served)
    token = active.set(exchange)
    try:
        assert current() is exchange.assignment
        assert handlers(lambda: "one", lambda: "two")() == "two"
    finally:
        active.reset(token)


def test_metrics_are_those_of_the_rollout_that_is_asked_about() -> None:
    clock = FakeClock()
    served = Canary.load(
        {"rollout": {"a": {"endpoints": ["/a/{id}", "/a-rest/*"]}, "b": {"endpoints": ["/b"]}}},
        environ={},
        clock=clock,
        now=clock.now,
    )
    for path, times in (("/a/1", 2), ("/a-rest/x", 1), ("/b", 4)):
        for _ in range(times):
            exchange = begin(served, path=path)
            clock.advance(0.1)
            exchange.status = 200
            exchange.finish()
    clock.advance(2.3)

    summary = served.metrics_summary("a")
    assert summary["legacy"]["request_count"] == 3
    assert summary["legacy"]["throughput_rps"] == pytest.approx(1.0)
    assert served.metrics_summary("b", raw=False)["comparison"]["traffic_split"]["legacy_requests"] == 4
    by_route = served.endpoint_metrics("a")
    assert {route: found["legacy"]["request_count"] for route, found in by_route.items()} == {"/a/{id}": 2, "": 1}
    assert served.endpoint_metrics("b", raw=False)["/b"]["legacy"]["avg_response_time_ms"] == "100.00"


# -- overrides -------------------------------------------------------------------------------------------------------


def test_a_minted_override_is_good_until_it_expires() -> None:
    clock = FakeClock()
    served = checkout({"CANARY_OVERRIDE_TOKEN": "t0ken"}, clock=clock, now=clock.now)
    value = served.override("v2", expires_in_s=60)

    def version() -> str:
        exchange = served.begin(Head(headers={"x-canary": value, "x-user-id": "u"}))
        assert exchange is not None
        return exchange.assignment.version

    assert version() == "v2"
    clock.advance(60)
    assert version() == "v1"
    assert served.internal_errors() == {("override", "Rejected"): 1}


@pytest.mark.parametrize(
    ("environ", "overrides"),
    [({}, {}), ({"CANARY_OVERRIDE_TOKEN": ""}, {}), ({"CANARY_OVERRIDE_TOKEN": "t"}, {"header": False})],
)
def test_without_a_token_or_a_place_overrides_are_off(environ: dict[str, str], overrides: dict[str, Any]) -> None:
    served = checkout(environ, overrides=overrides)

    with pytest.raises(ConfigError, match="overrides of 'checkout' are off: set CANARY_OVERRIDE_TOKEN"):
        served.override("v2")
    exchange = served.begin(Head(headers={"x-canary": "v2", "x-canary-token": "", "x-user-id": "u"}))
    assert exchange is not None
    assert exchange.assignment.reason == "weight"


# -- changes ---------------------------------------------------------------------------------------------------------


def test_a_rollout_runs_through_its_stages_by_hand() -> None:
    served = checkout(stages=[10, Stage(50), 100])

    seen = [
        served.start(actor="ann", reason="go"),
        served.advance(),
        served.pause(),
        served.resume(),
        served.set_weight(5.25),
        served.roll_back(reason="errors"),
        served.retry(),
    ]

    assert [rollout.weight_ppm for rollout in seen] == [100_000, 500_000, 500_000, 500_000, 52_500, 0, 100_000]
    assert [rollout.phase for rollout in seen] == [
        "progressing",
        "progressing",
        "paused",
        "progressing",
        "paused",
        "rolled_back",
        "progressing",
    ]
    assert [rollout.revision for rollout in seen] == list(range(1, 8))
    assert served.rollout() == seen[-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.resume(), "neither paused nor holding"),
        (lambda c: c.pause(), "Nothing is moving"),
        (lambda c: c.retry(), "Only a rollout that was rolled back"),
        (lambda c: c.advance(), "has no stages; set a weight instead"),
        (lambda c: c.emergency(on=False), "It is not locked"),
        (lambda c: c.add_endpoint("GET /a"), "covers 'GET /a' already"),
        (lambda c: c.remove_endpoint("/zzz"), "it covers GET /a"),
        (lambda c: c.remove_endpoint("GET /a"), "roll it back instead"),
        (lambda c: c.set_weight(101), "weight is 101: must be 0 … 100"),
    ],
)
def test_a_change_that_is_refused_changes_nothing_and_says_what_would_help(
    change: Callable[[Canary], object], said: str
) -> None:
    served = checkout(endpoints=["GET /a"], weight=20)
    before = served.rollout()

    with pytest.raises((TransitionRefused, ConfigError)) as error:
        change(served)

    assert said in str(error.value)
    assert served.rollout() is before


def test_an_emergency_stops_every_rollout_and_its_end_leaves_them_rolled_back() -> None:
    served = Canary.load(TWO, environ={})
    for name in ("anomaly_detection", "limit_up_prediction"):
        served.set_weight(100, rollout=name)

    served.emergency(actor="ann", reason="fire")
    assert [rollout.phase for rollout in served.rollouts()] == ["locked", "locked"]
    assert served.version_for("user", rollout="anomaly_detection") == "v1"
    served.emergency(on=False)

    assert [rollout.phase for rollout in served.rollouts()] == ["rolled_back", "rolled_back"]
    assert served.retry(rollout="anomaly_detection").phase == "idle"


def test_endpoints_come_and_go_while_requests_are_served() -> None:
    served = checkout(endpoints=["GET /a/{id}"], exclude=["GET /a/health"], weight=100)

    def covered(path: str, method: str = "GET") -> str | None:
        exchange = served.begin(Head(headers={"x-user-id": "u"}, path=path, method=method))
        return None if exchange is None else exchange.route

    assert [covered("/a/1"), covered("/a/health"), covered("/b")] == ["/a/{id}", None, None]

    served.add_endpoint("POST /b")
    assert [covered("/b"), covered("/b", "POST")] == [None, "/b"]
    served.remove_endpoint("GET /a/{id}")
    assert [covered("/a/1"), covered("/b", "POST")] == [None, "/b"]
    assert served.rollout().plan.endpoints == ("POST /b",)
    assert served.uncovered.assignment.reason == "uncovered"


@pytest.mark.parametrize("template", ["no-slash", "get /a", "/a/{id", "/a?x=1", "/a/{x}/{x}"])
def test_an_endpoint_that_is_no_template_is_refused_and_nothing_changes(template: str) -> None:
    served = checkout(endpoints=["GET /a"])
    before = served.rollout()

    with pytest.raises(ConfigError, match="endpoint"):
        served.add_endpoint(template)

    assert served.rollout() is before
    assert served.begin(Head(path="/a")) is not None
    assert served.set_weight(10).revision == 1


def test_what_a_store_says_is_served_without_touching_what_is_this_processs_own() -> None:
    served = checkout({"API_V2_TRAFFIC_PERCENTAGE": "10"}, endpoints=["/a"], stages=[10, 100])
    stored = Canary("checkout", environ={}, endpoints=["/b"], stages=[10, 100]).advance()

    served.serve(stored._replace(revision=7))

    mine = served.rollout()
    assert (mine.revision, mine.phase, mine.pinned_ppm) == (7, "progressing", 100_000)
    assert [source.spec for source in mine.plan.key] == ["header:x-user-id"]
    assert served.begin(Head(path="/a")) is None
    assert served.begin(Head(path="/b")) is not None
    before = served.rollout()
    served.serve(stored._replace(revision=7))
    assert served.rollout() is before
    served.serve(stored._replace(revision=8))
    assert served.rollout().revision == 8


def test_a_rollout_that_this_process_does_not_know_is_not_served() -> None:
    served = checkout()

    served.serve(Canary("search", environ={}).rollout())

    assert [rollout.name for rollout in served.rollouts()] == ["checkout"]


def test_changes_from_many_threads_are_made_one_after_another() -> None:
    served = checkout()

    def change() -> None:
        for n in range(50):
            served.set_weight(n)

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert served.rollout().revision == 200


def test_without_a_store_the_state_is_this_processs_own_and_never_stale() -> None:
    served = checkout()

    assert served.store is None
    assert served.snapshot_age_s() == 0.0
    assert served.variants.get("checkout", "v1", "stable", "weight") is served.assign("u").variant
    served.close()


# -- nothing of ours breaks a request --------------------------------------------------------------------------------


class Broken:
    """A recorder that fails where it is told to."""

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.called: list[str] = []

    def _call(self, method: str) -> None:
        self.called.append(method)
        if method in self.methods:
            raise RuntimeError(method)

    def begin(self, exchange: Exchange, head: object) -> None:
        self._call("begin")

    def end(self, exchange: Exchange) -> None:
        self._call("end")

    def fallback(self, exchange: Exchange) -> None:
        self._call("fallback")


def with_recorder(monkeypatch: pytest.MonkeyPatch, recorder: object, **fields: Any) -> Canary:
    def make(canary: Canary, **options: Any) -> object:
        if isinstance(recorder, Exception):
            raise recorder
        return recorder

    monkeypatch.setattr(telemetry, "recorder", make)
    return checkout(weight=100, **fields)


def test_a_recorder_is_told_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Broken()
    served = with_recorder(monkeypatch, recorder)

    exchange = begin(served)
    served.fell_back(exchange, Failure(500, "ValueError", ValueError("x")))
    exchange.finish()

    assert recorder.called == ["begin", "fallback", "end"]
    assert served.recorder is recorder
    assert served.internal_errors() == {}


@pytest.mark.parametrize(
    ("method", "component"), [("begin", "telemetry"), ("fallback", "telemetry"), ("end", "accounting")]
)
def test_a_recorder_that_fails_breaks_no_request(monkeypatch: pytest.MonkeyPatch, method: str, component: str) -> None:
    served = with_recorder(monkeypatch, Broken(method))

    exchange = begin(served)
    served.fell_back(exchange, Failure(500, "ValueError"))
    exchange.status = 200
    exchange.finish()

    assert served.internal_errors() == {(component, "RuntimeError"): 1}
    assert sum(served.counts.snapshot().ended.values()) == 1


def test_a_process_whose_telemetry_cannot_start_serves_without(monkeypatch: pytest.MonkeyPatch) -> None:
    served = with_recorder(monkeypatch, ImportError("no exporter"))

    exchange = begin(served)
    served.fell_back(exchange, Failure(500, "ValueError"))
    exchange.finish()
    served.record_db(0.1, "postgresql", "SELECT")
    served.close()

    assert served.recorder is None
    assert served.internal_errors() == {("telemetry", "ImportError"): 1}
    assert sum(served.counts.snapshot().ended.values()) == 1


def test_a_database_operation_is_handed_to_the_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    served = with_recorder(monkeypatch, Broken())
    begin(served)
    told: list[tuple[object, ...]] = []
    monkeypatch.setattr(telemetry, "record_db", lambda *args: told.append(args))
    monkeypatch.setattr(telemetry, "farewell", lambda timeout_s: told.append((timeout_s,)))

    served.record_db(0.1, "postgresql", "SELECT", "Timeout")
    served.close(2.0)

    assert told == [(0.1, "postgresql", "SELECT", "Timeout"), (pytest.approx(2.0, abs=0.5),)]


def test_a_fallback_is_logged_with_the_canarys_exception(caplog: pytest.LogCaptureFixture) -> None:
    served = checkout(weight=100)
    failure = ValueError("broken")

    with caplog.at_level(logging.ERROR, "canary_middleware"):
        served.fell_back(begin(served), Failure(500, "ValueError", failure))

    assert "canary v2 of checkout failed with ValueError; stable answers this request" in caplog.messages
    assert caplog.records[-1].exc_info is not None
    assert caplog.records[-1].exc_info[1] is failure


def test_a_body_that_must_be_awaited_is_asked_for_before_anything_is_counted() -> None:
    served = checkout(key=["json:user_id"])

    with pytest.raises(BodyNotRead):
        served.begin(Head(is_body_read=False))

    assert served.counts.snapshot().begun == {}


def test_whatever_fails_in_a_decision_stable_serves() -> None:
    class Head500(Head):
        def attribute(self, name: str) -> str | None:
            raise RuntimeError("no directory")

    served = checkout(weight=100, segments=[{"name": "eu", "when": {"region": "eu"}, "version": "v2"}])

    exchange = served.begin(Head500(headers={"x-user-id": "u"}))

    assert exchange is not None
    assert (exchange.assignment.version, exchange.assignment.reason) == ("v1", "error")
    assert served.internal_errors() == {("assignment", "RuntimeError"): 1}


def test_the_apps_attributes_are_asked_and_may_fail() -> None:
    asked = Canary("a", environ={}, attributes=lambda native: {"tier": str(native)})
    broken = Canary("b", environ={}, attributes=lambda native: {}[native])

    assert asked.attributes_of("pro") == {"tier": "pro"}
    assert broken.attributes_of("pro") == {}
    assert broken.internal_errors() == {("attributes", "KeyError"): 1}
    assert checkout().attributes_of("pro") == {}


@pytest.mark.parametrize("elapsed", [-5.0, float("nan"), 1e12])
def test_a_clock_that_jumps_never_makes_a_negative_or_endless_duration(elapsed: float) -> None:
    readings = [0.0, 0.0, elapsed]
    served = Canary("checkout", environ={}, clock=lambda: readings.pop(0))

    with recorded(served) as outcomes:
        exchange = served.begin(Head())
        assert exchange is not None
        exchange.finish()

    assert [outcome.duration_s for outcome in outcomes] == [0.0]


def test_a_websockets_duration_ends_with_its_handshake_and_its_outcome_later() -> None:
    clock = FakeClock()
    served = Canary("checkout", environ={}, clock=clock, now=clock.now)

    with recorded(served) as outcomes:
        exchange = served.begin(Head(method="WEBSOCKET"), started=-1.0)
        assert exchange is not None
        clock.advance(0.5)
        exchange.answered_at = clock()
        clock.advance(3600)
        exchange.finish()

    assert [outcome.duration_s for outcome in outcomes] == [1.5]


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_counts_its_own_requests_and_its_parent_goes_on() -> None:
    served = checkout()
    begin(served).finish()
    read, write = os.pipe()
    is_held, may_go = threading.Event(), threading.Event()

    def change() -> None:
        with served._changing:
            is_held.set()
            may_go.wait(10)

    holder = threading.Thread(target=change)
    holder.start()
    assert is_held.wait(10)

    # The lock is held by a thread that the child does not have.
    pid = os.fork()
    if pid == 0:
        try:
            begin(served).finish()
            served.set_weight(10)
            os.write(write, str(sum(served.counts.snapshot().ended.values())).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        in_child = pipe.read()
    os.waitpid(pid, 0)
    may_go.set()
    holder.join()

    assert in_child == "1"
    begin(served).finish()
    assert sum(served.counts.snapshot().ended.values()) == 2
    assert served.rollout().revision == 0


def test_where_forks_go_unseen_each_request_looks_at_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", ModuleType("uwsgi"))
    served = with_recorder(monkeypatch, Broken())
    begin(served).finish()
    begin(served).finish()
    assert sum(served.counts.snapshot().ended.values()) == 2

    monkeypatch.setattr(os, "getpid", lambda: -7)
    begin(served).finish()

    assert sum(served.counts.snapshot().ended.values()) == 1


def test_a_process_is_started_once_however_many_requests_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Canary] = []
    monkeypatch.setattr(telemetry, "recorder", lambda canary, **options: started.append(canary))
    served = checkout()
    pid, arrived = os.getpid(), threading.Semaphore(0)

    def getpid() -> int:
        arrived.release()
        return pid

    threads = [threading.Thread(target=lambda: begin(served).finish()) for _ in range(2)]
    with served._starting:
        monkeypatch.setattr(os, "getpid", getpid)
        for thread in threads:
            thread.start()
        for _ in threads:
            assert arrived.acquire(timeout=10)
    for thread in threads:
        thread.join()

    assert started == [served]
    assert sum(served.counts.snapshot().ended.values()) == 2
