"""Time zones in a plan: a mistyped one is an error at start, not a stage that never ends."""

from __future__ import annotations

import pytest

from canary_middleware import Canary
from canary_middleware.errors import ConfigError


def made(advance: str | None) -> Canary:
    return Canary("checkout", stages=[{"weight": 10, "advance": advance}, 50], environ={})


@pytest.mark.parametrize("zone", [" Europe/Berlin", " UTC", ""])
def test_zones_that_the_machine_knows_are_taken(zone: str) -> None:
    advance = f"Mon-Thu 09:00-17:00{zone}"

    assert made(advance).rollout().plan.stages[0].advance == advance
    assert made(None).rollout().plan.stages[0].advance is None


@pytest.mark.parametrize("zone", ["Europe/Berlni", "Europe", "/etc/passwd", "Mars"])
def test_others_are_named_with_their_stage(zone: str) -> None:
    with pytest.raises(ConfigError) as error:
        made(f"Mon-Thu 09:00-17:00 {zone}")

    assert str(error.value).startswith("rollout.checkout.stages[0].advance is 'Mon-Thu 09:00-17:00 ")
    assert f"there is no time zone '{zone}' here; must be a name such as Europe/Berlin" in str(error.value)
