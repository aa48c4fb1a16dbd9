"""
Recorded ticks, judged again: what would have been decided, and when.

A file holds one tick per line, as JSON; it is read line by line, however long it is.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.evidence import Judge
from .._core.evidence.tick import from_plain
from .._core.plan.durations import bucket
from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .._core.evidence import Settings, Tick
    from .._core.lifecycle.progress import Finding

LONGEST_LINE: Final = 1_000_000
"""Characters; a tick of any fleet is some ten thousand."""


class Step(NamedTuple):
    """One tick, and what the judge says behind it."""

    line: int
    tick: Tick
    finding: Finding


def read_ticks(lines: Iterable[str]) -> Iterator[tuple[int, Tick]]:
    """
    (line's number from 1, tick) of each of *lines*; empty ones are passed over.

    For files written by hand a version may hold ``durations_ms`` in place of ``durations``: a list of milliseconds, or
    milliseconds → requests.

    Raises:
        ConfigError: names the line, the key, what it holds and what is right.
    """
    last_s = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            tick = from_plain(_converted(_object(line)))
            _require_order(tick, last_s)
        except ConfigError as error:
            raise ConfigError(f"line {number}: {error}") from error
        last_s = tick.at_s
        yield number, tick


def _require_order(tick: Tick, last_s: float | None) -> None:
    if last_s is not None and tick.at_s <= last_s:
        raise ConfigError(f"at is {tick.at_s:g}: must be after the tick before it ({last_s:g})")


def _object(line: str) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise ConfigError(f"has more than {LONGEST_LINE:,} characters: must be one tick")
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"is no JSON ({error}): must be one tick, as an object") from error
    if not isinstance(found, dict):
        raise ConfigError(f"is {line.strip()[:40]}: must be one tick, as an object")
    return found


def _converted(plain: dict[str, Any]) -> dict[str, Any]:
    sides = {name: _side(plain[name], name) for name in ("stable", "canary") if isinstance(plain.get(name), dict)}
    return {**plain, **sides}


def _side(side: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = dict(side)
    if "durations_ms" not in found:
        return found
    given = found.pop("durations_ms")
    if isinstance(given, list):
        given = Counter(str(each) for each in given)
    if not isinstance(given, dict):
        right = "must be a list of milliseconds, or {milliseconds: requests}"
        raise ConfigError(f"{name}.durations_ms is {given!r}: {right}")
    durations: dict[str, Any] = {}
    for milliseconds, n in given.items():
        try:
            index = str(bucket(float(milliseconds) / 1000))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}.durations_ms has {milliseconds!r}: must be milliseconds") from error
        if type(n) is not int:
            raise ConfigError(f"{name}.durations_ms.{milliseconds} is {n!r}: must be a whole number, 0 or more")
        durations[index] = durations.get(index, 0) + n
    found["durations"] = durations
    return found


def replay(lines: Iterable[str], settings: Settings) -> Iterator[Step]:
    """
    Judge the ticks of *lines*, one after the other; a change of weight begins a stage.

    Raises:
        ConfigError: as ``read_ticks``.
    """
    judge = Judge(settings)
    weights: list[int] = []
    for number, tick in read_ticks(lines):
        if tick.weight_ppm > 0 and (not weights or tick.weight_ppm != weights[-1]):
            weights.append(tick.weight_ppm)
            # Nobody knows how many stages are still to come: each is taken for the last, which asks for the most.
            judge.enter(0, 1, compares=tick.weight_ppm < 1_000_000)
        judge.observe(tick)
        yield Step(number, tick, judge.finding())
