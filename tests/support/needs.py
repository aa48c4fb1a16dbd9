"""
Programs that tests drive for real and that a machine may lack.
"""

from __future__ import annotations

import os
import shutil

import pytest


def need(command: str, package: str) -> None:
    """
    Skip the test where *command* is not on this machine, naming the package that brings it; with CI set it fails.
    """
    if shutil.which(command) is not None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{package} is not installed, and CI leaves no test out: see .ci/services")
    pytest.skip(f"{package} is not installed")
