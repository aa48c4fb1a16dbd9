"""
When a stage may end: ``"Mon-Thu 09:00-17:00 Europe/Berlin"``.

Whether a zone exists is for whoever owns a table of zones; here its name is only a name, and the local time is handed
in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ...errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_EXAMPLE: Final = '"Mon-Thu 09:00-17:00 Europe/Berlin", with days as Mon-Fri or Mon,Wed and the zone left out for UTC'
_WINDOW: Final = re.compile(
    r"(?P<days>[A-Za-z,-]+)\s+(?P<begin>\d\d?:\d\d)-(?P<end>\d\d?:\d\d)(?:\s+(?P<zone>[A-Za-z0-9_+/-]+))?"
)


class Window(NamedTuple):
    """
    Part of a week.

    Attributes:
        days: 0 (Monday) … 6, on which it begins.
        begin, end: minutes of the day; *end* not after *begin* is on the following day.
        zone: IANA name.
    """

    days: frozenset[int]
    begin: int
    end: int
    zone: str = "UTC"

    def covers(self, local: datetime) -> bool:
        """Whether *local*, a time in the window's own zone, lies in it; its end does not."""
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        yesterday = (day - 1) % 7
        return (day in self.days and minute >= self.begin) or (yesterday in self.days and minute < self.end)


def parse_window(text: str, key: str = "advance") -> Window:
    """
    The Window that *text* stands for.

    Raises:
        ConfigError: names *key*, the text and what is right.
    """
    match = _WINDOW.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{key} = {text!r}: must be like {_EXAMPLE}")
    return Window(
        days=_days(match["days"], key, text),
        begin=_minute(match["begin"], key, text),
        end=_minute(match["end"], key, text, is_end=True),
        zone=match["zone"] or "UTC",
    )


def _days(words: str, key: str, text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in words.split(","):
        first, dash, last = part.partition("-")
        begin, end = _day(first, key, text), _day(last if dash else first, key, text)
        # Fri-Mon goes over the week's end.
        found.update((begin + n) % 7 for n in range((end - begin) % 7 + 1))
    return frozenset(found)


def _day(word: str, key: str, text: str) -> int:
    try:
        return DAYS.index(word.capitalize())
    except ValueError:
        raise ConfigError(f"{key} = {text!r}: {word!r} is no day: must be one of {', '.join(DAYS)}") from None


def _minute(word: str, key: str, text: str, *, is_end: bool = False) -> int:
    hours, minutes = (int(number) for number in word.split(":"))
    if minutes > 59 or hours * 60 + minutes > (24 * 60 if is_end else 24 * 60 - 1):
        raise ConfigError(f"{key} = {text!r}: {word!r} is no time of day: must be 00:00 … 23:59, or 24:00 at the end")
    return hours * 60 + minutes
