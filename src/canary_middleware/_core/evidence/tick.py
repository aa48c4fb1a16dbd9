"""
What the judge sees: one second or so of traffic, both versions side by side.

Only requests that a fair hash assigned are in it; overrides, health checks, shadow runs and clients that left are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...errors import ConfigError
from ..plan.durations import BUCKETS as DURATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUPS: Final = 64
"""Identity groups, by hash: how much they differ shows how alike the requests of one user are."""


class Group(NamedTuple):
    """Requests, failures, and the sum of ``durations.bucket`` over the requests of one identity group."""

    requests: int = 0
    failures: int = 0
    durations: int = 0


class Side(NamedTuple):
    """
    One version's part of a tick.

    Attributes:
        requests: how many ended (or were given up as hanging), ≥ 0.
        failures: how many of them the version failed; a request that stable answered for it is one.
        unavailable: those failures that were no answer: 502, 503, 504, a time-out, an exception.
        durations: bucket of ``_core.plan.durations`` → requests; adds up to *requests*.
        groups: identity group 0 … 63 → Group. May be empty, or cover other seconds than the rest.
        identities: identities that this version had not served before, as far as they are counted.
    """

    requests: int = 0
    failures: int = 0
    unavailable: int = 0
    durations: Mapping[int, int] = {}
    groups: Mapping[int, Group] = {}
    identities: int = 0

    def plus(self, other: Side) -> Side:
        """Both together."""
        durations = dict(self.durations)
        for index, n in other.durations.items():
            durations[index] = durations.get(index, 0) + n
        groups = dict(self.groups)
        for index, theirs in other.groups.items():
            mine = groups.get(index, Group())
            groups[index] = Group(*(a + b for a, b in zip(mine, theirs, strict=True)))
        return Side(
            self.requests + other.requests,
            self.failures + other.failures,
            self.unavailable + other.unavailable,
            durations,
            groups,
            self.identities + other.identities,
        )


class Tick(NamedTuple):
    """
    One look at the traffic.

    Attributes:
        at_s: Unix seconds at its beginning.
        weight_ppm: share of identities on the canary meanwhile.
        stable, canary: what each version did in it.
        seconds: how long it is.
        arrivals: identities that no version had served before, by the version that did: of stable, of the canary. None
            where that is not known; then each version's own are taken for them.
    """

    at_s: float
    weight_ppm: int
    stable: Side
    canary: Side
    seconds: float = 1.0
    arrivals: tuple[int, int] | None = None


def to_plain(tick: Tick) -> dict[str, Any]:
    """*tick* as plain data, fit for a line of JSON; empty parts are left out."""
    return {
        "at": tick.at_s,
        "seconds": tick.seconds,
        "weight": tick.weight_ppm / 10_000,
        "stable": _side_to_plain(tick.stable),
        "canary": _side_to_plain(tick.canary),
    }


def _side_to_plain(side: Side) -> dict[str, Any]:
    plain: dict[str, Any] = {"requests": side.requests, "failures": side.failures}
    if side.unavailable:
        plain["unavailable"] = side.unavailable
    if side.durations:
        plain["durations"] = {str(index): n for index, n in sorted(side.durations.items())}
    if side.groups:
        plain["groups"] = {str(index): list(group) for index, group in sorted(side.groups.items())}
    if side.identities:
        plain["identities"] = side.identities
    return plain


def from_plain(plain: Mapping[str, Any]) -> Tick:
    """
    The tick that ``to_plain`` wrote, or a person.

    Raises:
        ConfigError: names the key, what it holds and what is right.
    """
    known = {"at", "seconds", "weight", "stable", "canary"}
    odd = sorted(set(plain) - known)
    if odd:
        raise ConfigError(f"{odd[0]} is not known: a tick has {', '.join(sorted(known))}")
    weight = _number(plain, "weight", 0.0, 100.0)
    return Tick(
        at_s=_number(plain, "at", None, None),
        weight_ppm=round(weight * 10_000),
        stable=_side(plain, "stable"),
        canary=_side(plain, "canary"),
        seconds=_number({"seconds": 1.0, **plain}, "seconds", 0.0, None),
    )


def _number(plain: Mapping[str, Any], key: str, least: float | None, most: float | None) -> float:
    value = plain.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == float("inf"):
        raise ConfigError(f"{key} is {value!r}: must be a number")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ConfigError(
            f"{key} is {value!r}: must be {least:g} or more{'' if most is None else f', at most {most:g}'}"
        )
    return float(value)


def _count(value: object, key: str) -> int:
    if type(value) is not int or value < 0:
        raise ConfigError(f"{key} is {value!r}: must be a whole number, 0 or more")
    return value


def _side(plain: Mapping[str, Any], name: str) -> Side:
    found = plain.get(name)
    if not hasattr(found, "items"):
        raise ConfigError(f"{name} is {found!r}: must be a table with requests and failures")
    side: Mapping[str, Any] = found  # type: ignore[assignment]
    odd = sorted(set(side) - set(Side._fields))
    if odd:
        raise ConfigError(f"{name}.{odd[0]} is not known: a version has {', '.join(Side._fields)}")
    requests, failures, unavailable, identities = (
        _count(side.get(key, 0), f"{name}.{key}") for key in ("requests", "failures", "unavailable", "identities")
    )
    if failures > requests:
        raise ConfigError(f"{name}.failures is {failures}: must not be more than its requests ({requests})")
    durations = _buckets(side, name)
    if durations and sum(durations.values()) != requests:
        total = sum(durations.values())
        raise ConfigError(f"{name}.durations add up to {total}: must add up to its requests ({requests})")
    return Side(requests, failures, unavailable, durations, _groups(side, name), identities)


def _buckets(side: Mapping[str, Any], name: str) -> dict[int, int]:
    found: dict[int, int] = {}
    for text, n in _table(side, name, "durations").items():
        index = _index(text, DURATIONS, f"{name}.durations")
        found[index] = _count(n, f"{name}.durations.{text}")
    return found


def _groups(side: Mapping[str, Any], name: str) -> dict[int, Group]:
    found: dict[int, Group] = {}
    for text, numbers in _table(side, name, "groups").items():
        key = f"{name}.groups.{text}"
        index = _index(text, GROUPS, f"{name}.groups")
        if not isinstance(numbers, (list, tuple)) or len(numbers) != len(Group._fields):
            raise ConfigError(f"{key} is {numbers!r}: must be [requests, failures, sum of duration buckets]")
        found[index] = Group(*(_count(n, key) for n in numbers))
    return found


def _table(side: Mapping[str, Any], name: str, key: str) -> Mapping[str, Any]:
    found = side.get(key, {})
    if not hasattr(found, "items"):
        raise ConfigError(f"{name}.{key} is {found!r}: must be a table")
    return found  # type: ignore[no-any-return]


def _index(text: str, of: int, key: str) -> int:
    try:
        index = int(text)
    except ValueError:
        index = -1
    if not 0 <= index < of:
        raise ConfigError(f"{key} has {text!r}: must be 0 … {of - 1}")
    return index
