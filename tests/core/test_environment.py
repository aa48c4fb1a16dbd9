"""The variables that steer a rollout from outside."""

from __future__ import annotations

import pytest

from canary_middleware.core.environment import Environment, read_environment
from canary_middleware.core.plan import parse
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


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read_environment(ONE, {"API_V2_ENABLED": "maybe", "USE_LEGACY_API_V1": "", "API_V2_TRAFFIC_PERCENTAGE": "x"})

    assert all(name in str(error.value) for name in ("API_V2_ENABLED", "USE_LEGACY_API_V1", "PERCENTAGE"))


def test_somebody_must_be_left_to_serve() -> None:
    with pytest.raises(ConfigError, match="nobody is left"):
        read_environment(ONE, {"API_V2_ENABLED": "false", "USE_LEGACY_API_V1": "false"})


def test_an_empty_environment_says_nothing() -> None:
    assert read_environment(ONE, {}) == {"api": Environment()}
    assert read_environment(parse({"rollout": {"a": {}, "b": {}}}), {"API_V2_ENABLED": "false"}) == {
        "a": Environment(),
        "b": Environment(),
    }
