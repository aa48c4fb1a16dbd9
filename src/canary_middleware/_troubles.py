"""
What goes wrong inside us while serving: logged once per cause, counted for telemetry, never shown to a client.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from logging import Logger


def logger() -> Logger:
    """The package's logger. Imported where something is said: most processes never say anything."""
    import logging

    return logging.getLogger("canary_middleware")


INTERVAL_S: Final = 60.0
"""One line per cause and minute: thousands of the same one hide what else is said."""


class Troubles:
    """
    Dynamic failures of one process, by component and error class.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str], int] = {}
        self._said: dict[str, str] = {}
        self._held_back: dict[tuple[str, ...], tuple[float, int]] = {}

    def tell(self, cause: tuple[str, ...], message: str, error: BaseException | None = None) -> None:
        """
        Log *message*, at most once per cause and minute; the next one says how many were held back.

        Args:
            error: what it is about, whose traceback is logged with it.
        """
        now = self._clock()
        last, more = self._held_back.get(cause, (now - INTERVAL_S, 0))
        if now - last < INTERVAL_S:
            self._held_back[cause] = (last, more + 1)
            return
        self._held_back[cause] = (now, 0)
        since = f" ({more} more of these since the last line)" if more else ""
        logger().error("%s%s", message, since, exc_info=error)

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
                # A client's doing has no place in our code that anybody need look at.
                exc_info=None if getattr(error, "is_of_a_client", False) else error,
            )

    def counts(self) -> Mapping[tuple[str, str], int]:
        """(component, error class) → how often, since the process started."""
        return dict(self._counts)
