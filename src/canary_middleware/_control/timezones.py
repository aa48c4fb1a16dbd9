"""
Time zones of the windows in which stages may end: whether this machine knows them, and whether one is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.lifecycle.schedule import parse_window
from ..errors import ConfigError

if TYPE_CHECKING:
    from .._core.plan.schema import Plan


def require_zones(plan: Plan) -> None:
    """
    Check every zone that *plan* names.

    Raises:
        ConfigError: this machine's table of zones (IANA, or the package tzdata) does not have it.
    """
    for rollout in plan.rollouts:
        for n, stage in enumerate(rollout.stages):
            if stage.advance is not None:
                _require(parse_window(stage.advance).zone, f"rollout.{rollout.name}.stages[{n}].advance", stage.advance)


def is_open(window: str | None, now_s: float) -> bool:
    """
    Whether a stage may end at Unix second *now_s*, by its ``advance``; None is always open.

    Raises:
        LookupError, ValueError, OSError: this machine does not know the zone.
    """
    if window is None:
        return True
    from datetime import datetime
    from zoneinfo import ZoneInfo

    parsed = parse_window(window)
    return parsed.covers(datetime.fromtimestamp(now_s, ZoneInfo(parsed.zone)))


def _require(zone: str, key: str, text: str) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(zone)
    except (LookupError, ValueError, OSError) as error:  # OSError: a folder of the table, as Europe is
        raise ConfigError(
            f"{key} is {text!r}: there is no time zone {zone!r} here; must be a name such as Europe/Berlin (IANA), and "
            f"where the system has no table of them, install tzdata"
        ) from error
