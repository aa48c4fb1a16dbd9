"""
What goes wrong inside us while serving: logged once per cause, counted for telemetry, never shown to a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from logging import Logger


def logger() -> Logger:
    """The package's logger. Imported where something is said: most processes never say anything."""
    import logging

    return logging.getLogger("canary_middleware")


class Troubles:
    """Dynamic failures of one process, by component and error class."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._said: dict[str, str] = {}

    def report(self, component: str, error: BaseException, consequence: str, *, matter: str = "") -> None:
        """
        Count *error*; log it the first time this component fails this way.

        Args:
            component: which part of ours failed, for example ``"identity"``.
            consequence: what users get instead, as the end of a sentence.
            matter: what it is about, where a person will want to hear of each other one; such failures must be rare.
        """
        cause = (component, type(error).__qualname__)
        seen = self._counts.get(cause, 0)
        self._counts[cause] = seen + 1
        is_other = bool(matter) and self._said.get(component) != matter
        if is_other:
            self._said[component] = matter
        if not seen or is_other:
            logger().error(
                "canary %s failed with %s: %s; %s. Further ones are counted in canary.internal.errors, not logged.",
                component,
                cause[1],
                error,
                consequence,
                exc_info=error,
            )

    def counts(self) -> Mapping[tuple[str, str], int]:
        """(component, error class) → how often, since the process started."""
        return dict(self._counts)
