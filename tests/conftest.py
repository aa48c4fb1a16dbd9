"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A shared machine is slow at times: a deadline would fail without a defect. One seed, so that a failure is repeatable.
settings.register_profile("canary", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("canary")
