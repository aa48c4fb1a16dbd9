"""
The variables that steer a rollout from outside, read once at start. The environment is handed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ...errors import ConfigError
from .fields import PPM_PER_PERCENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .schema import Plan, RolloutPlan

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


class Environment(NamedTuple):
    """
    What the environment says of one rollout; None where it says nothing.

    Attributes:
        weight_ppm: the weight that it pins.
        enabled: False gives everyone stable.
        stable_enabled: False retires stable.
        weight_name: the variable that pins the weight, for messages.
    """

    weight_ppm: int | None = None
    enabled: bool | None = None
    stable_enabled: bool | None = None
    weight_name: str | None = None


def read_environment(plan: Plan, environ: Mapping[str, str]) -> dict[str, Environment]:
    """
    What *environ* says of each of *plan*'s rollouts, by name.

    A weight is a number, 0 … 100, with at most four decimals; a switch is true or false, 1 or 0, yes or no, on or off.
    A variable that is set but empty is wrong, not unset: a deployment that lost its value must not start with another.

    Raises:
        ConfigError: every variable that is wrong, with its value and what would be right.
    """
    problems: list[str] = []
    found = {rollout.name: _read(rollout, environ, problems) for rollout in plan.rollouts}
    if problems:
        raise ConfigError("; ".join(problems))
    return found


def _read(rollout: RolloutPlan, environ: Mapping[str, str], problems: list[str]) -> Environment:
    names = rollout.env
    weight = environ.get(names.weight) if names.weight else None
    result = Environment(
        weight_ppm=None if weight is None else _percent(names.weight or "", weight, problems),
        enabled=_flag(names.enabled, environ, problems),
        stable_enabled=_flag(names.stable_enabled, environ, problems),
        weight_name=None if weight is None else names.weight,
    )
    if result.stable_enabled is False and (result.enabled is False or not rollout.enabled):
        switch = names.enabled if result.enabled is False else f"rollout.{rollout.name}.enabled"
        problems.append(f"{switch} and {names.stable_enabled} are both false: nobody is left to serve, set one to true")
    return result


def _percent(name: str, text: str, problems: list[str]) -> int | None:
    """Exactly, from the digits: ``"12.5"`` is 125 000 ppm."""
    whole, point, decimals = text.strip().partition(".")
    is_number = whole.isascii() and whole.isdecimal() and len(whole) < 4
    if point:
        is_number = is_number and decimals.isascii() and decimals.isdecimal() and len(decimals) < 5
    ppm = int(whole) * PPM_PER_PERCENT + int(f"{decimals:0<4}") if is_number else -1
    if not 0 <= ppm <= 100 * PPM_PER_PERCENT:
        problems.append(f"{name}={text!r}: must be a percentage, 0 … 100, with at most four decimals")
        return None
    return ppm


def _flag(name: str | None, environ: Mapping[str, str], problems: list[str]) -> bool | None:
    text = environ.get(name) if name else None
    if text is None:
        return None
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    problems.append(f"{name}={text!r}: must be true or false (also 1 and 0, yes and no, on and off)")
    return None
