from __future__ import annotations

import pytest

from .drivers import DRIVERS, Driver


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each of the six front doors in turn."""
    driver: Driver = request.param
    return driver
