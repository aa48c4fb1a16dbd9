"""When a stage may end: part of a week."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._core.lifecycle.schedule import DAYS, Window, parse_window
from canary_middleware.errors import ConfigError

MONDAY = datetime(2026, 3, 2)  # noqa: DTZ001 - a local time, in whatever zone the window has


def at(day: str, time: str) -> datetime:
    hours, minutes = map(int, time.split(":"))
    return MONDAY + timedelta(days=DAYS.index(day), hours=hours, minutes=minutes)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("Mon-Thu 09:00-17:00 Europe/Berlin", Window(frozenset({0, 1, 2, 3}), 540, 1020, "Europe/Berlin")),
        ("Mon,Wed 9:30-24:00", Window(frozenset({0, 2}), 570, 1440, "UTC")),
        ("fri-MON 00:00-06:00 Etc/GMT+3", Window(frozenset({4, 5, 6, 0}), 0, 360, "Etc/GMT+3")),
        ("  Sun   22:00-02:00 ", Window(frozenset({6}), 1320, 120)),
    ],
)
def test_a_window_is_days_times_and_a_zone(text: str, window: Window) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be like"),
        ("09:00-17:00", "must be like"),
        ("Mon 9-17", "must be like"),
        ("Mon 09:00-17:00 Europe/Berlin now", "must be like"),
        ("Mo 09:00-17:00", "'Mo' is no day"),
        ("Mon- 09:00-17:00", "'' is no day"),
        ("Mon 24:00-25:00", "'24:00' is no time of day"),
        ("Mon 09:00-24:01", "'24:01' is no time of day"),
        ("Mon 09:60-10:00", "'09:60' is no time of day"),
    ],
)
def test_what_is_none_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"stages\[1\]\.advance") as caught:
        parse_window(text, "stages[1].advance")
    assert said in str(caught.value)


def test_its_end_is_not_part_of_it() -> None:
    window = parse_window("Mon-Thu 09:00-17:00")

    assert [window.covers(at("Thu", time)) for time in ("08:59", "09:00", "16:59", "17:00")] == [
        *(False, True, True, False)
    ]
    assert not window.covers(at("Fri", "12:00"))


def test_a_night_belongs_to_the_day_it_begins_on() -> None:
    night = parse_window("Sun 22:00-02:00")

    assert night.covers(at("Sun", "23:00"))
    assert night.covers(at("Mon", "01:59"))
    assert not night.covers(at("Mon", "02:00"))
    assert not night.covers(at("Sun", "01:00"))


@given(days=st.sets(st.integers(0, 6), min_size=1), begin=st.integers(0, 1439), end=st.integers(1, 1440))
def test_every_window_is_open_as_long_as_it_says(days: set[int], begin: int, end: int) -> None:
    window = Window(frozenset(days), begin, end)
    minutes = sum(window.covers(MONDAY + timedelta(minutes=n)) for n in range(7 * 1440))

    assert minutes == len(days) * ((end - begin) if begin < end else (1440 - begin + end))
