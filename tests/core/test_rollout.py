"""Who gets which version: precedence, segments, user lists, shares."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.assignment.bucketing import bucket
from canary_middleware._core.lifecycle.rollout import Assignment, Rollout, Router, Variants, assign, entry_weight
from canary_middleware._core.plan.schema import RolloutPlan, parse

from .heads import Head


def plan(**fields: Any) -> RolloutPlan:
    return parse({"schema": 1, "rollout": {"checkout": fields}}).rollouts[0]


def rollout(weight: float = 0, /, *, state: dict[str, Any] | None = None, **fields: Any) -> Rollout:
    return Rollout(plan=plan(**fields), **{"weight_ppm": round(weight * 10_000), **(state or {})})


@given(st.text(min_size=1, max_size=40), st.integers(0, 1_000_000))
def test_the_hash_decides_by_its_bucket(identity: str, weight_ppm: int) -> None:
    found = assign(Rollout(plan=plan(), weight_ppm=weight_ppm), identity)

    assert found.bucket == bucket(identity, salt="checkout")
    assert (found.role == "canary") == (found.bucket < weight_ppm)
    assert Router(rollout(0), Variants(), {}).point(identity) == found.point
    assert (found.rollout, found.reason, found.is_canary) == ("checkout", "weight", found.version == "v2")


def test_no_identity_is_stable_and_never_random() -> None:
    found = assign(rollout(100), None)

    assert (found.version, found.reason, found.bucket) == ("v1", "no_identity", None)


@pytest.mark.parametrize(
    ("state", "version", "reason"),
    [
        ({"phase": "locked"}, "v1", "emergency"),
        ({"phase": "rolled_back"}, "v1", "rolled_back"),
        ({"enabled": False}, "v1", "disabled"),
        ({"is_known": False}, "v1", "unknown"),
        ({"stable_enabled": False}, "v2", "retired"),
        ({"phase": "locked", "stable_enabled": False}, "v1", "emergency"),
        ({"phase": "locked", "enabled": False}, "v1", "emergency"),
    ],
)
def test_latches_and_switches_stand_above_lists_rules_and_the_hash(
    state: dict[str, Any], version: str, reason: str
) -> None:
    found = assign(
        rollout(100, state=state, segments=[{"name": "all", "when": {"region": "eu"}, "version": "v2"}]),
        "user",
        attributes={"region": "eu"},
    )

    assert (found.version, found.reason) == (version, reason)


def test_a_plan_that_is_not_enabled_gives_everyone_stable() -> None:
    assert assign(rollout(100, enabled=False), "user").reason == "disabled"


def test_the_user_list_stands_above_segments_and_segments_above_the_hash() -> None:
    both = rollout(
        0,
        overrides={"users": {"v2": ["qa"], "v1": ["boss"]}},
        segments=[{"name": "everybody", "when": {"identity": ["qa", "boss", "member"]}, "weight": 100}],
    )

    assert [assign(both, who).reason for who in ("qa", "boss", "member", "other")] == [
        "user",
        "user",
        "segment",
        "weight",
    ]
    assert [assign(both, who).version for who in ("qa", "boss", "member", "other")] == ["v2", "v1", "v2", "v1"]


def test_the_first_segment_that_matches_wins() -> None:
    both = rollout(
        100,
        segments=[
            {"name": "eu", "when": {"header": "x-region", "in": ["eu"]}, "weight": 0},
            {"name": "pro", "when": {"attribute": "tier", "in": ["pro"]}, "version": "v2"},
        ],
    )
    router = Router(both, Variants(), {})

    def versions(head: Head) -> str:
        return router.assign("user", head).version

    assert versions(Head(headers={"x-region": "eu"}, attributes={"tier": "pro"})) == "v1"
    assert versions(Head(attributes={"tier": "pro"})) == "v2"
    assert router.assign("user", Head()).reason == "weight"
    assert router.assign("user", None, {"tier": "pro"}).reason == "segment"


def test_a_segment_needs_no_identity_for_a_version_and_one_for_a_weight() -> None:
    router = Router(
        rollout(
            0,
            segments=[
                {"name": "staff", "when": {"attribute": "staff", "in": ["yes"]}, "version": "v2"},
                {"name": "eu", "when": {"region": "eu"}, "weight": 100},
            ],
        ),
        Variants(),
        {},
    )

    assert router.assign(None, Head(attributes={"staff": "yes"})).version == "v2"
    assert router.assign(None, Head(attributes={"region": "eu"})).reason == "no_identity"


def test_shares_are_fixed_while_the_weight_climbs() -> None:
    users = [f"user-{n}" for n in range(2_000)]
    seen: dict[str, str] = {}
    for weight in (5, 20, 50, 100):
        current = Router(rollout(weight, canary={"v2": 80, "v3": 20}), Variants(), {})
        for user in users:
            version = current.assign(user).version
            if version != "v1":
                assert seen.setdefault(user, version) == version

    third = sum(version == "v3" for version in seen.values())
    assert 330 < third < 470


def test_a_retired_stable_leaves_the_shares_and_the_list() -> None:
    gone = rollout(
        0,
        state={"stable_enabled": False},
        canary={"v2": 50, "v3": 50},
        overrides={"users": {"v1": ["pinned"]}},
    )

    assert {assign(gone, f"user-{n}").version for n in range(50)} == {"v2", "v3"}
    assert assign(gone, None).version in {"v2", "v3"}
    assert assign(gone, "pinned").version == "v1"


def test_a_lone_surrogate_and_a_long_identity_are_decided_too() -> None:
    current = rollout(50)

    assert assign(current, "\ud800").bucket == bucket("\ud800", salt="checkout")
    assert assign(current, "x" * 500).bucket == bucket("x" * 500, salt="checkout")


def test_md5_100_takes_whole_percents() -> None:
    current = rollout(50, hash="md5-100")

    assert {assign(current, f"u{n}").bucket % 10_000 for n in range(50)} == {0}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("wanted", "version"), [("always", "v2"), ("never", "v1"), ("v2", "v2"), ("v1", "v1"), ("v9", None)]
)
def test_an_override_names_a_version_or_a_side(wanted: str, version: str | None) -> None:
    found = Router(rollout(0), Variants(), {}).overridden(wanted)

    assert (None if found is None else found.version) == version
    assert found is None or found.reason == "override"


@pytest.mark.parametrize(
    ("state", "works"),
    [
        ({"phase": "locked"}, False),
        ({"enabled": False}, False),
        ({"phase": "rolled_back"}, True),
        ({"stable_enabled": False}, True),
    ],
)
def test_overrides_end_with_the_emergency_and_the_switch_but_not_with_a_rollback(
    state: dict[str, Any], works: bool
) -> None:
    assert (Router(rollout(0, state=state), Variants(), {}).overridden("v2") is not None) == works


def test_a_weight_pinned_by_the_environment_wins_until_a_latch() -> None:
    pinned = rollout(10, state={"pinned_ppm": 1_000_000})

    assert (pinned.effective_ppm, assign(pinned, "u").version) == (1_000_000, "v2")
    assert pinned._replace(phase="rolled_back").effective_ppm == 0
    assert pinned._replace(phase="rolled_back").is_latched


def test_equal_variants_are_one_object() -> None:
    variants = Variants()
    one = variants.get("checkout", "v2", "canary", "weight")

    assert variants.get("checkout", "v2", "canary", "weight") is one
    assert repr(one) == "Variant('checkout', 'v2', 'canary', 'weight')"


def test_draws_are_shared_between_revisions() -> None:
    draws: dict[tuple[str, str], Any] = {}
    Router(rollout(1), Variants(), draws)
    first = dict(draws)
    Router(rollout(2), Variants(), draws)

    assert draws == first


def test_an_assignment_shows_what_it_says() -> None:
    found = assign(rollout(100), "user-42")

    assert repr(found) == (
        "Assignment(rollout='checkout', version='v2', role='canary', reason='weight', bucket=243609, revision=0)"
    )
    assert isinstance(found, Assignment)


def test_the_entry_weight_is_the_lowest_that_includes_the_bucket() -> None:
    assert entry_weight(0) == 0.0001
    assert entry_weight(999_999) == 100
    assert Router(rollout(0), Variants(), {}).versions == ("v1", "v2")


@pytest.mark.parametrize("hash_name", ["blake2b", "md5-100"])
def test_the_point_of_an_identity_is_where_it_is_decided(hash_name: str) -> None:
    router = Router(rollout(50, hash=hash_name), Variants(), {})

    assert router.point("user") == router.assign("user").point
