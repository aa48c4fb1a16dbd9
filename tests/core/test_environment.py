"""The variables that steer a rollout from outside."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.plan.environment import Environment, read_environment
from canary_middleware._core.plan.schema import parse
from canary_middleware.errors import ConfigError

ONE = parse({"rollout": {"api": {}}})


@pytest.mark.parametrize(
    ("text", "ppm"),
    [("0", 0), ("10", 100_000), ("12.5", 125_000), ("0.0001", 1), (" 100 ", 1_000_000), ("100.0000", 1_000_000)],
)
def test_the_weight_is_read_exactly(text: str, ppm: int) -> None:
    found = read_environment(ONE, {"API_V2_TRAFFIC_PERCENTAGE": text})["api"]

    assert (found.weight_ppm, found.weight_name) == (ppm, "API_V2_TRAFFIC_PERCENTAGE")


@pytest.mark.parametrize("text", ["abc", "-1", "101", "1e1", "nan", "", ".", "1.", ".5", "1.00001", "１０", "100.1"])
def test_a_wrong_weight_stops_the_start_and_never_means_everybody(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_environment(ONE, {"API_V2_TRAFFIC_PERCENTAGE": text})

    assert "API_V2_TRAFFIC_PERCENTAGE" in str(error.value)
    assert repr(text) in str(error.value)
    assert "0 … 100" in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("1", True), ("0", False), ("YES", True), (" off ", False)]
)
def test_switches_are_words_or_digits(text: str, value: bool) -> None:
    found = read_environment(ONE, {"API_V2_ENABLED": text, "USE_LEGACY_API_V1": "true"})["api"]

    assert (found.enabled, found.stable_enabled) == (value, True)


@pytest.mark.parametrize("name", ["API_V2_ENABLED", "USE_LEGACY_API_V1"])
@pytest.mark.parametrize("text", ["", "maybe", "2", "truefalse", "null", "10"])
def test_a_wrong_switch_is_named_with_its_value_and_what_would_be_right(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_environment(ONE, {name: text})

    assert str(error.value) == f"{name}={text!r}: must be true or false (also 1 and 0, yes and no, on and off)"


def test_a_variable_that_another_rollout_names_says_nothing_here() -> None:
    plan = parse(
        {
            "rollout": {
                "a": {"env": {"weight": "A_PERCENT", "enabled": "A_ON", "stable_enabled": "A_OLD"}},
                "b": {"env": {"weight": "B_PERCENT", "enabled": False}},
            }
        }
    )
    environ = {"A_PERCENT": "5", "A_ON": "true", "A_OLD": "no", "B_PERCENT": "0", "API_V2_ENABLED": "nonsense"}

    assert read_environment(plan, environ) == {
        "a": Environment(weight_ppm=50_000, enabled=True, stable_enabled=False, weight_name="A_PERCENT"),
        "b": Environment(weight_ppm=0, weight_name="B_PERCENT"),
    }


@given(st.text(max_size=12) | st.text("0123456789. -+e", max_size=8))
def test_whatever_the_text_a_weight_is_a_percentage_or_an_error(text: str) -> None:
    refusal = None
    ppm = None
    try:
        ppm = read_environment(ONE, {"API_V2_TRAFFIC_PERCENTAGE": text})["api"].weight_ppm
    except ConfigError as error:
        refusal = str(error)

    if ppm is None:
        assert refusal is not None
        assert f"API_V2_TRAFFIC_PERCENTAGE={text!r}: must be a percentage" in refusal
    else:
        assert Decimal(ppm) == Decimal(text.strip()) * 10_000


@given(st.integers(0, 1_000_000))
def test_every_weight_that_a_plan_can_hold_can_be_pinned_exactly(ppm: int) -> None:
    text = f"{ppm // 10_000}.{ppm % 10_000:04}"

    assert read_environment(ONE, {"API_V2_TRAFFIC_PERCENTAGE": text})["api"].weight_ppm == ppm


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read_environment(ONE, {"API_V2_ENABLED": "maybe", "USE_LEGACY_API_V1": "", "API_V2_TRAFFIC_PERCENTAGE": "x"})

    assert all(name in str(error.value) for name in ("API_V2_ENABLED", "USE_LEGACY_API_V1", "PERCENTAGE"))


def test_somebody_must_be_left_to_serve() -> None:
    with pytest.raises(ConfigError, match=r"API_V2_ENABLED and USE_LEGACY_API_V1 are both false: .* set one to true"):
        read_environment(ONE, {"API_V2_ENABLED": "false", "USE_LEGACY_API_V1": "false"})


def test_a_canary_that_the_plan_switches_off_cannot_take_over_from_stable() -> None:
    plan = parse({"rollout": {"api": {"enabled": False}}})

    with pytest.raises(ConfigError, match=r"rollout\.api\.enabled and USE_LEGACY_API_V1 are both false"):
        read_environment(plan, {"USE_LEGACY_API_V1": "false"})
    with pytest.raises(ConfigError, match=r"rollout\.api\.enabled and USE_LEGACY_API_V1 are both false"):
        read_environment(plan, {"USE_LEGACY_API_V1": "false", "API_V2_ENABLED": "true"})
    assert read_environment(plan, {"USE_LEGACY_API_V1": "true"})["api"].stable_enabled is True


def test_an_empty_environment_says_nothing() -> None:
    assert read_environment(ONE, {}) == {"api": Environment()}
    assert read_environment(parse({"rollout": {"a": {}, "b": {}}}), {"API_V2_ENABLED": "false"}) == {
        "a": Environment(),
        "b": Environment(),
    }
