"""
Requests that have not been answered yet: a canary that hangs would otherwise yield no data at all.

Looked at once a second, beside the requests. One older than LATE_S counts as slow at once, one older than TIMEOUT_S as
failed; when it ends after all, what was said of it before is taken back, for it is counted as it ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._core.lifecycle.rollout import RANDOMISED
from .._core.plan.durations import bucket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._core.exchange import Exchange

LATE_S: Final = 2.0
TIMEOUT_S: Final = 30.0
"""As long as gunicorn's workers may take by default."""

Said = dict[str, int]
"""Requests (``r``), failures (``f``) and durations (``"<bucket>"``), perhaps below 0; merged by adding."""


class InFlight:
    """What was said of requests that had not ended when it was."""

    def __init__(self) -> None:
        self._said: dict[Exchange, tuple[int, bool]] = {}

    def look(self, live: Iterable[Exchange], now: float) -> dict[tuple[str, str], Said]:
        """
        What is new since the last look.

        Args:
            live: exchanges that have begun and not ended.
            now: reading of the clock that they were started by, in seconds.
        Returns:
            (rollout, version) → what to add to its counts.
        """
        found: dict[tuple[str, str], Said] = {}
        for exchange in live:
            # Whoever has begun to answer does not hang: a stream may take as long as it likes.
            if exchange.status or exchange.method == "WEBSOCKET" or exchange.variant.reason not in RANDOMISED:
                continue
            age = now - exchange.started
            if age >= LATE_S and exchange not in self._said:
                index = bucket(age)
                self._said[exchange] = (index, False)
                _add(found, exchange, {"r": 1, str(index): 1})
            if age >= TIMEOUT_S and not self._said[exchange][1]:
                self._said[exchange] = (self._said[exchange][0], True)
                _add(found, exchange, {"f": 1})
        for exchange in [one for one in self._said if one.has_ended]:
            index, is_failed = self._said.pop(exchange)
            _add(found, exchange, {"r": -1, str(index): -1, **({"f": -1} if is_failed else {})})
        return found


def _add(found: dict[tuple[str, str], Said], exchange: Exchange, said: Said) -> None:
    variant = exchange.variant
    mine = found.setdefault((variant.rollout, variant.version), {})
    for key, n in said.items():
        mine[key] = mine.get(key, 0) + n
