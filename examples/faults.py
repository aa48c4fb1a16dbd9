"""
A bug that can be switched on from the environment, to see what the users see of it.
"""

from __future__ import annotations

import os
import re
from itertools import count

_FORM = re.compile(r"every-([1-9]\d*)(?:st|nd|rd|th)")


class InjectedFault(Exception):
    """What ``Fault.strike`` raises."""


class Fault:
    """
    Fails some of the calls to ``strike``, counted in this process.

    Args:
        variable: the environment variable that switches it on: ``every-7th``, or ``every-1st`` for each call.
    Raises:
        ValueError: the variable holds something else.
    """

    def __init__(self, variable: str) -> None:
        setting = os.environ.get(variable, "")
        found = _FORM.fullmatch(setting)
        if setting and found is None:
            raise ValueError(f"{variable} is {setting!r}: write every-7th, every-1st (each call), or leave it out")
        self._every = int(found[1]) if found else 0
        self._calls = count(1)

    def strike(self) -> None:
        """Raise InjectedFault when it is this call's turn."""
        if self._every and next(self._calls) % self._every == 0:
            raise InjectedFault("switched on to show what happens then")
