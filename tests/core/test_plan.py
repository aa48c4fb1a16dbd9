"""The plan file: what it says, and what it answers to what is wrong."""

from __future__ import annotations

import copy
import json
import pickle
import tomllib
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware import Stage, by_header
from canary_middleware._core.plan.fields import duration_text, parse_duration, parse_size, percent
from canary_middleware._core.plan.schema import Criteria, Plan, RolloutPlan, parse, to_mapping
from canary_middleware.errors import ConfigError

from .test_rollout import plan

FILE = """
schema = 1
store = "sqlite:///var/canary.db"
trusted_proxies = ["10.0.0.0/8"]
[anonymous]
cookie = "visitor"
max_age = "30d"
same_site = "Strict"
[rollout.checkout]
stable = "v1"
canary = "v2"
endpoints = ["GET /checkout/*", "POST /checkout"]
key = ["header:x-user-id", "json:user_id", "cookie:session", "anonymous"]
stages = [10, 30, 50, 80, 100]
duration = "30m"
fallback = "safe-methods"
[rollout.checkout.criteria]
error_rate = { max = 0.01, max_increase = 0.005 }
p95 = { max = "200ms", max_ratio = 1.10 }
min_requests = 1000
[rollout.checkout.guardrails]
error_rate = { max = 0.05 }
p95 = { max = "2s" }
availability = { min = 0.99 }
exceptions = { count = 5, within = "10s" }
custom.cart_value = { min = 5, action = "warn" }
[[rollout.checkout.segments]]
name = "eu"
when = { header = "X-Region", in = ["eu-west-1"] }
weight = 50
[rollout.checkout.overrides]
header = "X-Canary"
token_env = "CANARY_OVERRIDE_TOKEN"
users = { v2 = ["qa-1", "qa-2"] }
[rollout.checkout.end_of_life]
deprecation = 2026-01-01T00:00:00Z
successor = "/v2"
"""


def problems(**fields: Any) -> str:
    with pytest.raises(ConfigError) as error:
        plan(**fields)
    return str(error.value)


def test_the_file_of_the_guide_says_what_it_says() -> None:
    found = parse(tomllib.loads(FILE))
    checkout = found.rollouts[0]

    assert (found.store, found.trusted_proxies) == ("sqlite:///var/canary.db", ("10.0.0.0/8",))
    assert (found.anonymous.cookie, found.anonymous.max_age_s, found.anonymous.same_site) == (
        "visitor",
        30 * 86_400,
        "Strict",
    )
    assert [stage.weight_ppm for stage in checkout.stages] == [100_000, 300_000, 500_000, 800_000, 1_000_000]
    assert (checkout.duration_s, checkout.criteria.min_requests) == (1800, 1000)
    assert [source.spec for source in checkout.key] == [
        "header:x-user-id",
        "json:user_id",
        "cookie:session",
        "anonymous",
    ]
    limits = {criterion.metric: criterion for criterion in checkout.guardrails.limits}
    assert limits["p95"].limit("max") == 2
    assert limits["exceptions"].limit("within") == 10
    assert limits["exceptions"].limit("min") is None
    assert limits["custom.cart_value"].action == "warn"
    assert (checkout.segments[0].attribute, checkout.segments[0].weight_ppm) == ("x-region", 500_000)
    assert checkout.overrides.users == {"qa-1": "v2", "qa-2": "v2"}


def test_a_plan_survives_being_written_as_json() -> None:
    found = parse(tomllib.loads(FILE))

    assert parse(json.loads(json.dumps(to_mapping(found)))) == found


def test_an_empty_rollout_has_the_documented_defaults() -> None:
    assert plan() == RolloutPlan(name="checkout", salt="checkout", env=plan().env)
    assert (plan().env.weight, plan().env.enabled, plan().env.stable_enabled) == (
        "API_V2_TRAFFIC_PERCENTAGE",
        "API_V2_ENABLED",
        "USE_LEGACY_API_V1",
    )


def test_several_rollouts_name_their_own_variables() -> None:
    found = parse({"rollout": {"a": {}, "b": {"env": {"weight": "B_PERCENT", "enabled": False}}}})

    assert (found.rollouts[0].env.weight, found.rollouts[1].env.weight) == (None, "B_PERCENT")
    assert found.rollouts[1].env.enabled is None


names = st.from_regex(r"\A[a-z][a-z0-9_.-]{0,8}\Z").filter(lambda name: name not in ("always", "never", "v1"))
durations = st.floats(0.001, 1e7, allow_nan=False).map(lambda s: round(s, 3))
rates = st.floats(0, 1, allow_nan=False)


@st.composite
def rollouts(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["blake2b", "md5-100"]))
    # A hundred places know no half percents.
    ppm = st.integers(0, 1_000_000) if kind == "blake2b" else st.integers(0, 100).map(lambda whole: whole * 10_000)
    segments: list[dict[str, Any]] = [
        {"name": "a", "when": {"identity": ["a", "b"]}, "version": "v1"},
        {"name": "b", "when": {"region": ["eu"]}, "weight": percent(draw(ppm))},
        {"name": "c", "when": {"attribute": "tier", "in": ["pro"]}, "weight": 0},
    ]
    fields: dict[str, Any] = {
        "canary": draw(names | st.just({"v2": 62.5, "v3": 37.5})),
        "weight": percent(draw(ppm)),
        "hash": kind,
        "fallback": draw(st.sampled_from(["never", "safe-methods", "idempotent"])),
        "duration": duration_text(draw(durations)),
        "bake": duration_text(draw(durations)),
        "enabled": draw(st.booleans()),
        "enforce": draw(st.booleans()),
        "cache_headers": draw(st.booleans()),
        "version_header": draw(st.sampled_from(["X-Version", False])),
        "body_cap": draw(st.integers(0, 10**9)),
        "key": draw(st.lists(st.sampled_from(["header:a", "cookie:b", "json:c.d", "user", "session:x", "client"]))),
        "exclude": draw(st.lists(st.sampled_from(["GET /health", "/ready"]), unique=True)),
        "stages": [
            {"weight": percent(weight), "approve": draw(st.booleans()), "duration": duration_text(draw(durations))}
            for weight in sorted(draw(st.sets(ppm, max_size=4)))
        ],
        "criteria": {
            "error_rate": {"max": draw(rates), "action": draw(st.sampled_from(["rollback", "pause", "warn"]))},
            "p99": {"max": duration_text(draw(durations)), "max_ratio": draw(st.floats(1, 10))},
            "min_identities": draw(st.integers(0, 10_000)),
        },
        "segments": draw(st.lists(st.sampled_from(segments), unique_by=lambda segment: str(segment["name"]))),
        "overrides": {"cookie": draw(st.sampled_from(["c", False])), "users": {"v1": draw(st.lists(names))}},
        "end_of_life": {"sunset": "2026-07-01T00:00:00+02:00", "sunset_link": "/s", "deprecation_link": "/d"},
    }
    return {key: fields[key] for key in draw(st.sets(st.sampled_from(sorted(fields))))}


@given(rollouts(), st.booleans())
def test_every_plan_survives_being_written(fields: dict[str, Any], several: bool) -> None:
    tables = {"checkout": fields, **({"other": {}} if several else {})}
    found = parse({"rollout": tables, **({"store": "memory:"} if several else {})})

    assert parse(json.loads(json.dumps(to_mapping(found)))) == found


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"wieght": 5}, "rollout.checkout.wieght = 5 is not known: did you mean 'weight'?"),
        ({"zzz": 5}, "known here:"),
        ({"weight": 101}, "rollout.checkout.weight is 101: must be 0 … 100 (percent)"),
        ({"weight": -1}, "must be 0 … 100"),
        ({"weight": "10"}, "must be a number"),
        ({"weight": True}, "must be a number"),
        ({"weight": float("nan")}, "must be a number"),
        ({"weight": 0.00001}, "at most four decimals"),
        ({"stable": "v2"}, "is the stable version's name too"),
        ({"stable": "a b"}, "letters, digits"),
        ({"canary": "always"}, "overrides use this word"),
        ({"canary": 5}, "must be a version"),
        ({"canary": {}}, "must be a version"),
        ({"canary": {"v2": 50, "v3": 40}}, "shares must add up to 100, not 90"),
        ({"canary": {"v2": 100, "v3": 0}}, "a share of 0 serves nobody"),
        ({"canary": {"v2": "x", "v3": 100}}, "canary.v2 is 'x'"),
        ({"endpoints": ["checkout"]}, "must begin with /"),
        ({"endpoints": [5]}, "must be a list of texts"),
        ({"key": ["heder:x"]}, "key[0]"),
        ({"key": [5]}, "key[0] is 5"),
        ({"key": "header:x"}, "must be a list"),
        ({"hash": "sha1"}, "must be one of blake2b, md5-100"),
        ({"hash": "md5-100", "weight": 12.5}, 'weight is 12.5: must be a whole percentage with hash = "md5-100"'),
        ({"hash": "md5-100", "stages": [10, 12.5]}, "stages[1].weight is 12.5: must be a whole percentage"),
        (
            {"hash": "md5-100", "segments": [{"name": "eu", "when": {"region": ["eu"]}, "weight": 0.5}]},
            "segments[0].weight is 0.5: must be a whole percentage",
        ),
        (
            {"segments": [{"name": "eu", "when": {"region": [r]}, "weight": 5} for r in ("a", "b")]},
            "segments[1].name is 'eu': stands twice",
        ),
        (
            {"stages": [{"weight": 5, "advance": "Mon-Thu 9-17"}]},
            "stages[0].advance = 'Mon-Thu 9-17': must be like \"Mon-Thu 09:00-17:00 Europe/Berlin\"",
        ),
        ({"stages": [{"weight": 5, "advance": "Mon-Thu 09:00-25:00"}]}, "is no time of day"),
        ({"fallback": "yes"}, "never, safe-methods, idempotent"),
        ({"duration": 30}, 'a number has no unit: "30s"?'),
        ({"duration": "30"}, "with a unit of"),
        ({"duration": ""}, "must be a duration"),
        ({"duration": []}, "must be a duration"),
        ({"stages": [10, 5]}, "stages[1].weight is 5: must be above stages[0].weight (10)"),
        ({"stages": [{"weight": 5, "aprove": True}]}, "did you mean 'approve'?"),
        ({"stages": [{"duration": "5m"}]}, "stages[0].weight must be there"),
        ({"body_cap": "1MX"}, "must be a size"),
        ({"body_cap": -1}, "must be a size"),
        ({"enabled": "yes"}, "must be true or false"),
        ({"version_header": "a b"}, "must be a header name"),
        ({"criteria": {"error_rate": {"max": "1%"}}}, "write 0.01?"),
        ({"criteria": {"error_rate": {"max": "much"}}}, "must be a fraction, 0 … 1"),
        ({"criteria": {"error_rate": {"max": 5}}}, "write 0.05 for 5 %?"),
        ({"criteria": {"error_rate": {}}}, "says no limit"),
        ({"criteria": {"error_rate": 0.01}}, "must be a table"),
        ({"criteria": {"p95": {"max_ratio": 0.5}}}, "must be a number, 1 or more"),
        ({"criteria": {"p95": {"max": "1s", "action": "panic"}}}, "rollback, pause, warn"),
        ({"criteria": {"custom": {"cart": {"max": "x"}}}}, "custom.cart.max is 'x'"),
        ({"criteria": {"custom": {"cart": 5}}}, "must be a table"),
        ({"criteria": {"min_requests": -1}}, "must be a whole number, 0 or more"),
        ({"guardrails": {"exceptions": {"count": 5}}}, "needs both count and within"),
        ({"guardrails": {"exceptions": {"count": 0, "within": "1s"}}}, "1 or more"),
        (
            {"criteria": {"error_rate": {"max": 0.1}}, "guardrails": {"error_rate": {"max": 0.05}}},
            "which rolls back first: lower it",
        ),
        (
            {"criteria": {"availability": {"min": 0.9}}, "guardrails": {"availability": {"min": 0.99}}},
            "which rolls back first: raise it",
        ),
        ({"criteria": {"severe_bugs": {"max": -1}}}, "severe_bugs.max is -1: must be a whole number, 0 or more"),
        ({"criteria": {"severe_bugs": {"max": 0.5}}}, "severe_bugs.max is 0.5: must be a whole number"),
        ({"criteria": {"severe_bugs": {"min": 1}}}, "severe_bugs says no limit: give at least one of max"),
        ({"criteria": {"severe_bugs": 0}}, "severe_bugs is 0: must be a table"),
        ({"criteria": {"feedback": {"min": 0}}}, "feedback.min is 0: must be a whole number, 1 or more"),
        ({"criteria": {"feedback": {"min": True}}}, "feedback.min is True: must be a whole number, 1 or more"),
        ({"criteria": {"feedbak": {"min": 1}}}, "did you mean 'feedback'?"),
        ({"guardrails": {"feedback": {"min": 1}}}, "guardrails.feedback = {'min': 1} is not known"),
        (
            {"criteria": {"severe_bugs": {"max": 2}}, "guardrails": {"severe_bugs": {"max": 1}}},
            "is above guardrails.severe_bugs.max (1), which rolls back first: lower it",
        ),
        ({"segments": [5]}, "must be a table with name"),
        ({"segments": [{"when": {"region": "eu"}, "weight": 5}]}, "name must be there"),
        ({"segments": [{"name": "a", "when": {"region": "eu"}}]}, "exactly one of them"),
        ({"segments": [{"name": "a", "when": {"region": "eu"}, "version": "v9"}]}, "must be one of v1, v2"),
        ({"segments": [{"name": "a", "weight": 5}]}, "when must be there"),
        ({"segments": [{"name": "a", "weight": 5, "when": {"path": "/"}}]}, "exactly one of identity"),
        ({"segments": [{"name": "a", "weight": 5, "when": {"header": "x"}}]}, "must list what header 'x'"),
        ({"overrides": {"users": {"v9": ["a"]}}}, "must be one of the versions v1, v2"),
        ({"overrides": {"users": {"v2": "a"}}}, "must be a list of identities"),
        ({"overrides": {"users": {"v2": ["a"], "v1": ["a"]}}}, "stands under v2 and under v1"),
        ({"end_of_life": {"sunset": "soon"}}, "must be a date and time with offset"),
        ({"end_of_life": {"sunset": "2026-01-01T00:00:00"}}, "must be a date and time with offset"),
        (
            {"end_of_life": {"sunset": "2026-01-01T00:00:00Z", "deprecation": "2026-02-01T00:00:00Z"}},
            "must not be before deprecation",
        ),
        ({"guardrails": {"exceptions": {"count": 5, "within": "0s"}}}, "within is '0s': must be longer than nothing"),
        ({"criteria": {"p95": {"max": "0ms"}}}, "p95.max is '0ms': must be longer than nothing"),
        ({"criteria": {"custom": {"cart": {"min": 5, "max": 1}}}}, "is above max (1): no value can hold both"),
        ({"criteria": {"custom": {"": {"max": 1}}}}, "it names a metric"),
        ({"criteria": {"custom": {"a\nb": {"max": 1}}}}, "it names a metric"),
        (
            {"overrides": {"header": "X\r\nSet-Cookie: a"}},
            "overrides.header is 'X\\r\\nSet-Cookie: a': must be a token",
        ),
        ({"overrides": {"header": "X-Canar\u212a"}}, "must be a token"),
        ({"overrides": {"cookie": "a;b"}}, "overrides.cookie is 'a;b': must be a token"),
        ({"env": {"weight": "A", "enabled": "A"}}, "gives one variable two meanings"),
        ({"env": {"weight": "API_V2_ENABLED"}}, "gives one variable two meanings"),
        ({"stages": ["ten"]}, "stages[0].weight is 'ten': must be a number"),
        ({"stages": [None]}, "stages[0].weight must be there"),
        ({"salt": ""}, "must be a text"),
        ({"canary": {2: 100}}, "canary is 2: must be 1 to 100 letters"),
        ({"weight": 10**400}, "must be a number"),
        ({"guardrails": {"exceptions": {"count": 10**400, "within": "1s"}}}, "1 or more"),
        ({"segments": [{"name": "a", "weight": 5, "when": {"region": []}}]}, "must list at least one"),
        ({"segments": [{"name": "a", "weight": 5, "when": {"header": "x y", "in": ["b"]}}]}, "RFC 9110"),
        ({"segments": [{"name": "a", "weight": 5, "when": {"header": "x-新", "in": ["b"]}}]}, "it goes into Vary"),
        ({"end_of_life": {"successor": "/新"}}, "must be a URI in ASCII"),
        ({"end_of_life": {"successor": "/a\r\nSet-Cookie: a=b"}}, "must be a URI in ASCII"),
        ({"end_of_life": {"sunset_link": '/a>; rel="x'}}, "must be a URI in ASCII"),
    ],
)
def test_what_is_wrong_is_named_with_its_key_and_what_would_be_right(fields: dict[str, Any], said: str) -> None:
    assert said in problems(**fields)


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("0s", 0.0)])
def test_a_quantile_may_grow_by_a_time_or_not_at_all(text: str, seconds: float) -> None:
    found = Plan(rollouts=(plan(criteria={"p99": {"max_increase": text}}),))

    assert found.rollouts[0].criteria.limits[0].limit("max_increase") == seconds
    assert parse(to_mapping(found)) == found


def test_a_metric_of_the_apps_own_may_have_dots_in_its_name() -> None:
    found = Plan(rollouts=(plan(criteria={"custom": {"cart.value.p50": {"min": 5, "max_ratio": 1.5}}}),))

    assert found.rollouts[0].criteria.limits[0].metric == "custom.cart.value.p50"
    assert parse(to_mapping(found)) == found


def test_what_people_report_is_counted_in_whole_numbers_and_survives_being_written() -> None:
    found = Plan(
        rollouts=(
            plan(
                criteria={"severe_bugs": {"max": 0, "action": "pause"}, "feedback": {"min": 2}},
                guardrails={"severe_bugs": {"max": 0}},
            ),
        )
    )
    limits = {criterion.metric: criterion for criterion in found.rollouts[0].criteria.limits}
    written = to_mapping(found)

    assert (limits["severe_bugs"].limit("max"), limits["feedback"].limit("min")) == (0.0, 2.0)
    assert (limits["severe_bugs"].action, found.rollouts[0].guardrails.limits[0].action) == ("pause", "rollback")
    assert written["rollout"]["checkout"]["criteria"]["feedback"] == {"min": 2, "action": "rollback"}
    assert parse(json.loads(json.dumps(written))) == found


@pytest.mark.parametrize(
    "fields",
    [
        {"criteria": {"error_rate": {"max": "1%"}}},
        {"criteria": {"p95": {"max": 200}}},
        {"guardrails": {"exceptions": {"count": 0, "within": "1s"}}},
        {"stages": [{"weight": 5, "criteria": {"availability": {"min": 99}}}]},
    ],
)
def test_a_limit_that_cannot_be_read_is_one_problem(fields: dict[str, Any]) -> None:
    assert "problems" not in problems(**fields)


def test_any_mapping_is_a_table() -> None:
    fields: dict[str, Any] = {
        "canary": {"v2": 80, "v3": 20},
        "stages": [{"weight": 5}],
        "criteria": {"error_rate": {"max": 0.01}},
        "segments": [{"name": "a", "when": {"region": "eu"}, "weight": 5}],
        "overrides": {"users": {"v2": ["a"]}},
    }

    assert parse(frozen({"rollout": {"checkout": fields}})) == Plan(rollouts=(plan(**fields),))


def frozen(value: Any) -> Any:
    """*value* with a read-only mapping for each dict."""
    if isinstance(value, dict):
        return MappingProxyType({key: frozen(item) for key, item in value.items()})
    return [frozen(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("wrong", [None, [], "canary.toml", 5])
def test_what_is_no_table_at_all_is_no_plan(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be a table with rollout; Canary\.load reads one from a file"):
        parse(wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cookie": "a b"}, "anonymous.cookie is 'a b': must be a token"),
        ({"path": "shop"}, "anonymous.path is 'shop': must begin with /"),
        ({"path": "/;x"}, "it goes into Set-Cookie"),
        ({"domain": "a\r\nb"}, "it goes into Set-Cookie"),
        ({"domain": "bücher.example"}, "it goes into Set-Cookie"),
        ({"same_site": "lax"}, "anonymous.same_site is 'lax': must be Lax, Strict or None, or false"),
        ({"same_site": "None", "secure": False}, "browsers refuse the cookie otherwise"),
        ({"max_age": "0s"}, "anonymous.max_age is '0s': must be 1s or longer"),
        ({"max_age": "200ms"}, "must be 1s or longer"),
        ({"max_age": 30}, 'a number has no unit: "30s"?'),
    ],
)
def test_an_anonymous_cookie_that_browsers_would_not_keep_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse({"rollout": {"a": {}}, "anonymous": options})

    assert said in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"same_site": "None"},
        {"same_site": False, "secure": False, "httponly": False},
        {"path": "/shop", "domain": "example.com", "max_age": "1s", "secret_env": "SECRET", "cookie": "visitor"},
    ],
)
def test_every_anonymous_cookie_survives_being_written(options: dict[str, Any]) -> None:
    found = parse({"rollout": {"a": {}}, "anonymous": options})

    assert found.anonymous != parse({"rollout": {"a": {}}}).anonymous
    assert parse(json.loads(json.dumps(to_mapping(found)))) == found


def test_all_problems_come_at_once() -> None:
    message = problems(weight=101, fallback="x", stages=[5, 4])

    assert message.startswith("the plan has 3 problems:")


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({}, "holds no rollout"),
        ({"rollout": {"a": 5}}, "rollout.a is 5: must be a table"),
        ({"schema": 2, "rollout": {"a": {}}}, "this release reads no other"),
        ({"schema": "1", "rollout": {"a": {}}}, "must be a whole number"),
        (
            {"trusted_proxies": ["10.0.0.0/8", "10.0.0.1/8"], "rollout": {"a": {}}},
            "trusted_proxies[1]: trusted proxy '10.0.0.1/8' is no network: write for example 10.0.0.0/8",
        ),
        ({"rollout": {"": {}}}, "letters, digits"),
        ({"rollout": {"a": {}}, "anonymous": {"cokie": "x"}}, "did you mean 'cookie'?"),
        ({"rollout": 5}, "must be a table"),
    ],
)
def test_what_is_wrong_outside_of_a_rollout_is_named_too(mapping: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(mapping)

    assert said in str(error.value)


def test_a_stage_is_made_of_a_percentage_and_words() -> None:
    stage = Stage(12.5, duration="30m", bake="1h", criteria={"error_rate": {"max": 0.01}})

    assert (stage.weight_ppm, stage.duration_s, stage.bake_s) == (125_000, 1800, 3600)
    assert stage.criteria is not None
    assert plan(stages=[stage]).stages == (stage,)
    assert stage == Stage(12.5, duration="30m", bake="1h", criteria={"error_rate": {"max": 0.01}})
    assert hash(Stage(5, criteria=Criteria())) == hash(Stage(5, criteria=Criteria()))
    assert Stage(5) != 5
    assert repr(Stage(5, approve=True)) == "Stage(approve=True, weight_ppm=50000)"
    with pytest.raises(AttributeError, match="does not change"):
        stage.weight_ppm = 5
    with pytest.raises(AttributeError, match="does not change"):
        del stage.weight_ppm


@pytest.mark.parametrize(
    ("weight", "words", "said"),
    [
        (101, {}, "weight is 101: must be 0 … 100 (percent)"),
        (None, {}, "weight must be there"),
        (5, {"duration": "x"}, "duration is 'x': must be a duration"),
        (5, {"bake": 60}, 'a number has no unit: "60s"?'),
        (5, {"approve": "yes"}, "approve is 'yes': must be true or false"),
        (5, {"shadow": 1}, "shadow is 1: must be true or false"),
        (5, {"advance": 5}, "advance is 5: must be a text"),
        (5, {"criteria": 5}, "criteria is 5: must be a table"),
        (5, {"criteria": {"p9": {}}}, "criteria.p9 = {} is not known: did you mean 'p9"),
        (101, {"approve": "yes"}, "the plan has 2 problems:"),
    ],
)
def test_a_stage_of_wrong_words_names_them(weight: Any, words: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Stage(weight, **words)

    assert said in str(error.value)


def test_a_stage_is_the_same_after_copying_and_pickling() -> None:
    stage = Stage(12.5, duration="30m", approve=True, criteria=Criteria(min_requests=5))

    assert copy.copy(stage) == copy.deepcopy(stage) == pickle.loads(pickle.dumps(stage)) == stage


def test_a_stage_in_shadow_is_refused_while_there_is_no_shadow() -> None:
    with pytest.raises(ConfigError, match=r"stages\[0\].shadow is True: there are no shadow stages yet"):
        plan(stages=[{"weight": 10, "shadow": True}, 100])


def test_stages_with_baking_and_criteria_can_be_written_back() -> None:
    assert to_mapping(Plan(rollouts=(plan(stages=[Stage(5, bake="1h", criteria={"min_requests": 5})]),)))


def test_a_source_and_a_function_may_stand_in_the_key() -> None:
    source = by_header("a")

    assert plan(key=[source, str]).key[0] is source


@pytest.mark.parametrize(
    ("text", "seconds"), [("200ms", 0.2), ("1h30m", 5400), ("2s", 2), ("1w", 604_800), ("1.5h", 5400), ("7d", 604_800)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text, "x") == pytest.approx(seconds)


@pytest.mark.parametrize(("value", "size"), [(5, 5), ("64KiB", 65_536), ("1MiB", 1_048_576), ("10 B", 10), ("7", 7)])
def test_sizes_have_units(value: int | str, size: int) -> None:
    assert parse_size(value, "x") == size


def test_more_identities_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_identities"):
        parse({"rollout": {"shop": {"stages": [10], "criteria": {"min_identities": 10_001}}}})
    assert parse({"rollout": {"shop": {"criteria": {"min_identities": 10_000}}}})
