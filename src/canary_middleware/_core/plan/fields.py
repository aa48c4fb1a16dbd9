"""
Reading a table key by key: each value checked, each problem kept, so that one message can name them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

from ...errors import ConfigError
from ..hints import hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

T = TypeVar("T")

PPM_PER_PERCENT: Final = 10_000
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_UNITS_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "kB": 1000, "MB": 1000**2}
_MISSING: Final = object()
_LARGEST: Final = 2**53
"""The whole numbers up to here are the same as floats and in JSON."""


def _is_number(value: object) -> TypeGuard[float]:
    """Whether *value* is a number that a float can hold; TOML and JSON know integers of any length."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isfinite(value) if isinstance(value, float) else abs(value) <= _LARGEST


def parse_percent(value: object, key: str) -> int:
    """
    A percentage as ppm: exactly, 1 % = 10 000.

    Raises:
        ConfigError: *value* is no number, outside 0 … 100, or finer than four decimals.
    """
    if not _is_number(value):
        raise ConfigError(f"{key} is {value!r}: must be a number, 0 … 100 (percent)")
    if not 0 <= value <= 100:
        raise ConfigError(f"{key} is {value!r}: must be 0 … 100 (percent)")
    ppm = round(value * PPM_PER_PERCENT)
    # A float such as 0.1 is not the tenth it stands for; a fifth decimal is off by far more than its rounding.
    if abs(value * PPM_PER_PERCENT - ppm) > 1e-6:
        raise ConfigError(f"{key} is {value!r}: must have at most four decimals (1 ppm)")
    return ppm


def percent(ppm: int) -> float:
    """*ppm* in percent; a whole number stays one."""
    return ppm // PPM_PER_PERCENT if ppm % PPM_PER_PERCENT == 0 else ppm / PPM_PER_PERCENT


def parse_duration(text: object, key: str) -> float:
    """
    Seconds of ``"200ms"``, ``"30s"``, ``"30m"``, ``"2h"``, ``"7d"`` or ``"1w"``; also of ``"1h30m"``.

    Raises:
        ConfigError: *text* is not such a text.
    """
    if not isinstance(text, str):
        hint = f' (a number has no unit: "{text}s"?)' if isinstance(text, (int, float)) else ""
        raise ConfigError(f'{key} is {text!r}: must be a duration such as "30m", "2s" or "200ms"{hint}')
    total = 0.0
    rest = text.strip()
    if not rest:
        raise ConfigError(f'{key} is {text!r}: must be a duration such as "30m", "2s" or "200ms"')
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        letters = len(rest[digits:]) - len(rest[digits:].lstrip("abcdefghijklmnopqrstuvwxyz"))
        number, unit, rest = rest[:digits], rest[digits : digits + letters], rest[digits + letters :].lstrip()
        try:
            total += float(number) * _UNITS_S[unit]
        except (ValueError, KeyError):
            raise ConfigError(
                f'{key} is {text!r}: must be a duration such as "30m", with a unit of {", ".join(_UNITS_S)}'
            ) from None
    if not isfinite(total):
        raise ConfigError(f'{key} is {text!r}: must be a duration that ends, such as "30m"')
    return total


def duration_text(seconds: float) -> str:
    """*seconds* as ``parse_duration`` reads it, exactly."""
    for unit in ("d", "h", "m", "s"):
        whole, rest = divmod(seconds, _UNITS_S[unit])
        if not rest and (whole or unit == "s"):
            return f"{whole:.0f}{unit}"
    from decimal import Decimal

    # repr gives the shortest text that reads as the same float; "f" writes it without an exponent.
    return f"{Decimal(repr(seconds)):f}s"


def parse_size(value: object, key: str) -> int:
    """Bytes of a whole number, or of a text such as ``"64KiB"`` or ``"1MiB"``. Raises ConfigError on all else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        number = value.strip()
        digits = len(number) - len(number.lstrip("0123456789"))
        unit = number[digits:].strip() or "B"
        if 0 < digits < 17 and unit in _UNITS_BYTES:
            return int(number[:digits]) * _UNITS_BYTES[unit]
    raise ConfigError(f'{key} is {value!r}: must be a size such as "64KiB", "1MiB", or a number of bytes')


class Reader:
    """
    One table of a plan, read key by key.

    Args:
        table: the keys and values.
        path: where the table stands, as ``rollout.checkout``.
        problems: where complaints go; tables inside share their parent's.
    """

    def __init__(self, table: Mapping[str, Any], path: str, problems: list[str] | None = None) -> None:
        self._table = table
        self._path = path
        self._problems = [] if problems is None else problems
        self._known: dict[str, None] = {}
        self._is_ignored = False

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def keys(self) -> Iterable[str]:
        """The keys that are there."""
        return self._table.keys()

    def path(self, key: str) -> str:
        """The full name of *key*."""
        return ".".join(part for part in (self._path, key) if part)

    def add(self, problem: str) -> None:
        """Keep a complaint."""
        self._problems.append(problem)

    def problem(self, key: str, value: object, remedy: str) -> None:
        """Complain about *key*: its value, and what would be right."""
        shown = "" if value is None else f" is {value!r}"
        joint = ": " if shown else " "
        self.add(f"{self.path(key)}{shown}{joint}{remedy}")

    def ignore(self) -> None:
        """Say nothing about further keys of this table."""
        self._is_ignored = True

    def finish(self) -> None:
        """Complain about keys that nobody asked for."""
        if self._is_ignored:
            return
        for key in self._table:
            if key not in self._known:
                meant = hint(str(key), self._known, f"known here: {', '.join(sorted(self._known))}")
                self.add(f"{self.path(str(key))} = {self._table[key]!r} is not known: {meant}")

    def raise_problems(self) -> None:
        """Raise ConfigError if anything was wrong."""
        if self._problems:
            if len(self._problems) == 1:
                raise ConfigError(self._problems[0])
            listed = "\n".join(f"  - {problem}" for problem in self._problems)
            raise ConfigError(f"the plan has {len(self._problems)} problems:\n{listed}")

    def child(self, table: Mapping[str, Any], path: str) -> Reader:
        """A reader of a table inside this one."""
        return Reader(table, path, self._problems)

    # -- one value each --------------------------------------------------------------------------------------------

    def any(self, key: str, default: Any) -> Any:  # Any: the caller looks at it
        """Whatever stands under *key*."""
        self._known[key] = None
        value = self._table.get(key, default)
        return default if value is None else value

    def _checked(self, key: str, default: T, is_right: Callable[[Any], bool], remedy: str) -> T:
        value = self.any(key, _MISSING)
        if value is _MISSING:
            return default
        if is_right(value):
            return value  # type: ignore[no-any-return]
        self.problem(key, value, remedy)
        return default

    def text(self, key: str, default: str | None) -> str | None:
        """A text that is not empty."""
        return self._checked(key, default, lambda v: isinstance(v, str) and bool(v), "must be a text")

    def text_or_off(self, key: str, default: str | None) -> str | None:
        """A text; None where it is false or empty."""
        self._known[key] = None
        if key in self._table and self._table[key] in (False, "", None):
            return None
        return self.text(key, default)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._checked(key, default, lambda v: isinstance(v, bool), "must be true or false")

    def integer(self, key: str, default: int, *, least: int = 0) -> int:
        """A whole number from *least* on."""
        return self._checked(
            key,
            default,
            lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= _LARGEST,
            f"must be a whole number, {least} or more (at most {_LARGEST})",
        )

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """One of *choices*."""
        return self._checked(
            key, default, lambda v: isinstance(v, str) and v in choices, f"must be one of {', '.join(choices)}"
        )

    def number(self, key: str, *, least: float | None = None) -> float | None:
        """A finite number, from *least* on; None where it is not there."""
        value: float | None = self._checked(
            key,
            None,
            lambda v: _is_number(v) and (least is None or v >= least),
            "must be a number" if least is None else f"must be a number, {least:g} or more",
        )
        return None if value is None else float(value)

    def rate(self, key: str) -> float | None:
        """A fraction, 0 … 1; None where it is not there."""
        value = self.any(key, None)
        if isinstance(value, str):
            try:
                hint = f" (write {float(value.strip().rstrip('%')) / 100:g}?)"
            except ValueError:
                hint = ""
            self.problem(key, value, f"must be a fraction, 0 … 1{hint}")
            return None
        found = self.number(key)
        if found is not None and not 0 <= found <= 1:
            self.problem(key, value, f"must be a fraction, 0 … 1 (write {found / 100:g} for {found:g} %?)")
            return None
        return found

    def duration(self, key: str, default: float | None) -> float | None:
        """Seconds of a text such as ``"30m"``."""
        return self._parsed(key, default, parse_duration)

    def size(self, key: str, default: int) -> int:
        """Bytes."""
        return self._parsed(key, default, parse_size)

    def percent(self, key: str, default: int | None) -> int:
        """A percentage as ppm; where *default* is None it must be there."""
        if default is None and self.any(key, None) is None:
            self.problem(key, None, "must be there: a percentage, 0 … 100")
        return self._parsed(key, default or 0, parse_percent)

    def to_percent(self, key: str, value: object) -> int:
        """*value*, which is not a key of its own, as ppm."""
        try:
            return parse_percent(value, self.path(key))
        except ConfigError as error:
            self.add(str(error))
            return 0

    def _parsed(self, key: str, default: T, parse: Callable[[object, str], T]) -> T:
        value = self.any(key, None)
        if value is None:
            return default
        try:
            return parse(value, self.path(key))
        except ConfigError as error:
            self.add(str(error))
            return default

    def moment(self, key: str) -> datetime | None:
        """A point in time with its offset: a TOML date-time or RFC 3339 text."""
        from datetime import UTC, datetime

        value = self.any(key, None)
        if value is None:
            return None
        try:
            found = datetime.fromisoformat(value) if isinstance(value, str) else value
            is_right = isinstance(found, datetime) and found.tzinfo is not None and bool(found.astimezone(UTC))
        except (ValueError, OverflowError):  # OverflowError: the last hours of year 9999, west of Greenwich
            is_right = False
        if not is_right:
            self.problem(key, str(value), "must be a date and time with offset, as 2026-12-31T23:59:59Z")
            return None
        return found  # pyright: ignore[reportPossiblyUnboundVariable]

    # -- several values --------------------------------------------------------------------------------------------

    def sequence(self, key: str) -> Sequence[Any]:  # Any: the caller looks at each
        """A list; empty where it is not there."""
        found: Sequence[Any] = self._checked(key, (), lambda v: isinstance(v, (list, tuple)), "must be a list")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, or one text alone."""
        value = self.any(key, ())
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            self.problem(key, value, "must be a list of texts")
            return ()
        return tuple(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A table as it is; empty where it is not there."""
        found: Mapping[str, Any] = self._checked(key, {}, lambda v: isinstance(v, Mapping), "must be a table")
        return found

    def optional(self, key: str) -> Reader | None:
        """A reader of the table under *key*, or None where there is none."""
        value: Mapping[str, Any] | None = self._checked(key, None, lambda v: isinstance(v, Mapping), "must be a table")
        return None if value is None else self.child(value, self.path(key))

    def table(self, key: str, read: Callable[[Reader], T]) -> T | None:
        """What *read* makes of the table under *key*, all of whose keys it must ask for."""
        child = self.optional(key)
        if child is None:
            return None
        found = read(child)
        child.finish()
        return found
