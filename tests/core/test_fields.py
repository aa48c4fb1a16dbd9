"""Values of a plan: read exactly, written so that they read the same, refused with a word on what is right."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.plan.fields import (
    Reader,
    duration_text,
    parse_duration,
    parse_percent,
    parse_size,
    percent,
)
from canary_middleware.errors import ConfigError

HUGE = 10**400
"""TOML and JSON hold integers that no float does."""


def test_every_part_per_million_is_read_back_exactly() -> None:
    assert all(parse_percent(percent(ppm), "weight") == ppm for ppm in range(1_000_001))


@pytest.mark.parametrize(("value", "ppm"), [(0.1, 1_000), (33.3333, 333_333), (99.9999, 999_999), (7, 70_000)])
def test_a_decimal_fraction_means_what_it_says(value: float, ppm: int) -> None:
    assert parse_percent(value, "weight") == ppm


@pytest.mark.parametrize(
    "value", [True, None, "10", [], float("nan"), float("inf"), -0.0001, 100.0001, HUGE, -HUGE, 0.00005]
)
def test_what_is_no_percentage_is_refused_by_key_and_value(value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        parse_percent(value, "rollout.a.weight")

    assert str(error.value).startswith(f"rollout.a.weight is {value!r}: must ")


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**12).map(float))
def test_a_duration_is_written_as_it_is_read_to_the_last_bit(seconds: float) -> None:
    assert parse_duration(duration_text(seconds), "duration") == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (90.0, "90s"), (1800.0, "30m"), (5400.0, "90m"), (86_400.0, "1d"), (0.2, "0.2s")]
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    "text", ["", " ", "30", "m", "-5m", "5 parsecs", "1.2.3s", "5mm", "1h-30m", "9" * 400 + "s", 30, 1.5, None, True]
)
def test_what_is_no_duration_is_refused_with_an_example(text: Any) -> None:
    with pytest.raises(ConfigError) as error:
        parse_duration(text, "rollout.a.duration")

    assert str(error.value).startswith(f"rollout.a.duration is {text!r}: must be a duration")
    assert '"30m"' in str(error.value)


@pytest.mark.parametrize("value", [-1, True, 1.5, "", "MiB", "5 XB", "1.5MiB", "9" * 5_000, None, "-1"])
def test_what_is_no_size_is_refused_with_an_example(value: Any) -> None:
    with pytest.raises(ConfigError, match='must be a size such as "64KiB"'):
        parse_size(value, "body_cap")


def complaint(read: Any) -> str:
    """What *read* makes a reader say of the table ``{"k": …}``."""
    table, ask = read
    reader = Reader({"k": table}, "t")
    ask(reader)
    with pytest.raises(ConfigError) as error:
        reader.raise_problems()
    return str(error.value)


@pytest.mark.parametrize(
    ("value", "ask", "said"),
    [
        (HUGE, lambda r: r.integer("k", 0), "must be a whole number, 0 or more (at most"),
        (2**53 + 1, lambda r: r.integer("k", 0), "at most 9007199254740992"),
        (True, lambda r: r.integer("k", 0), "must be a whole number"),
        (HUGE, lambda r: r.number("k"), "must be a number"),
        (HUGE, lambda r: r.rate("k"), "must be a number"),
        (float("nan"), lambda r: r.rate("k"), "must be a number"),
        (-0.1, lambda r: r.rate("k"), "must be a fraction, 0 … 1"),
        ("0.5%", lambda r: r.rate("k"), "(write 0.005?)"),
        (["a", 5], lambda r: r.texts("k"), "must be a list of texts"),
        ("9999-12-31T23:59:59-01:00", lambda r: r.moment("k"), "must be a date and time with offset"),
        (datetime(2026, 1, 1), lambda r: r.moment("k"), "must be a date and time with offset"),  # noqa: DTZ001
        (5, lambda r: r.moment("k"), "must be a date and time with offset"),
        ("[x]", lambda r: r.sequence("k"), "must be a list"),
        ([], lambda r: r.mapping("k"), "must be a table"),
        ([], lambda r: r.table("k", lambda child: child), "must be a table"),
    ],
)
def test_a_wrong_value_is_named_with_its_full_key(value: Any, ask: Any, said: str) -> None:
    message = complaint((value, ask))

    assert message.startswith("t.k is ")
    assert said in message


def test_a_value_that_is_not_there_is_the_default() -> None:
    reader = Reader({"k": None}, "")

    for key in ("k", "absent"):
        assert reader.integer(key, 7) == 7
        assert reader.number(key) is None
        assert reader.rate(key) is None
        assert reader.moment(key) is None
        assert reader.duration(key, 5.0) == 5.0
        assert reader.percent(key, 100) == 100
        assert reader.optional(key) is None
        assert reader.texts(key) == ()
    assert reader.text_or_off("k", "on") is None
    assert reader.text_or_off("absent", "on") == "on"
    reader.raise_problems()


def test_a_point_in_time_is_read_from_text_and_from_toml() -> None:
    moment = datetime(2026, 7, 1, tzinfo=UTC)

    assert Reader({"k": "2026-07-01T02:00:00+02:00"}, "").moment("k") == moment
    assert Reader({"k": moment}, "").moment("k") == moment
