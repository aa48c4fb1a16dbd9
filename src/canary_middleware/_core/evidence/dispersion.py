"""
How much less a request counts because requests of one user are alike.

Identities fall into 64 groups by hash. Were all requests independent, the groups would differ by chance alone; by how
much more they differ is the variance inflation φ (the design effect, Kish 1965), and a φth of the requests would say as
much. Groups weigh by their requests, so a few heavy users count for what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .tick import GROUPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .tick import Side

_LEAST: Final = 30
"""Requests before the spread of their durations says anything."""


class Dispersion:
    """
    What the identity groups of one version have done since the judge began.

    All sums are kept as they grow: a tick costs what it touches, and φ a handful of divisions.
    """

    __slots__ = ("_all", "_durations", "_failures", "_requests", "_sums")

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._requests = [0] * GROUPS
        self._failures = [0] * GROUPS
        self._durations = [0] * GROUPS
        # Over groups: n, x, s, n², x², s², ns.
        self._sums = [0] * 7
        # Over all requests, grouped or not: how many durations, their sum, the sum of their squares.
        self._all = [0, 0, 0]
        if state is not None:
            self._requests, self._failures, self._durations = (list(state[key]) for key in ("n", "x", "s"))
            self._sums, self._all = list(state["sums"]), list(state["all"])

    def add(self, side: Side) -> None:
        """Take in one tick."""
        requests, failures, durations = self._requests, self._failures, self._durations
        n1, x1, s1, n2, x2, s2, ns = self._sums
        for index, (n, x, s) in side.groups.items():
            was_n, was_s = requests[index], durations[index]
            requests[index] = now_n = was_n + n
            durations[index] = now_s = was_s + s
            n1 += n
            s1 += s
            n2 += now_n * now_n - was_n * was_n
            s2 += now_s * now_s - was_s * was_s
            ns += now_n * now_s - was_n * was_s
            if x:
                was_x = failures[index]
                failures[index] = was_x + x
                x1 += x
                x2 += (was_x + x) ** 2 - was_x * was_x
        self._sums = [n1, x1, s1, n2, x2, s2, ns]
        timed, total, squares = self._all
        for bucket, n in side.durations.items():
            product = n * bucket
            timed += n
            total += product
            squares += product * bucket
        self._all = [timed, total, squares]

    def errors(self) -> float:
        """
        φ of the failures, ≥ 1.

        How many more pairs of failures share a group than would by chance; each pair more weakens every failure.
        """
        n, x, _, n2, x2, _, _ = self._sums
        if x < 2:
            return 1.0
        alike = n2 / (n * n)
        return max(1.0, 1.0 + (x2 - x - (x * x - x) * alike) / x)

    def durations(self) -> float:
        """φ of the durations' logarithms (the grid is logarithmic), ≥ 1: an analysis of variance over groups."""
        n, _, s, n2, _, s2, ns = self._sums
        timed, total, squares = self._all
        if n < _LEAST or timed < _LEAST:
            return 1.0
        variance = squares / timed - (total / timed) ** 2
        alike = n2 / (n * n)
        if variance <= 0.0 or alike >= 1.0:
            return 1.0
        mean = s / n
        between = s2 - 2.0 * mean * ns + mean * mean * n2
        return max(1.0, between / (variance * n * (1.0 - alike)))

    def state(self) -> dict[str, Any]:
        """What another goes on from."""
        return {
            "n": list(self._requests),
            "x": list(self._failures),
            "s": list(self._durations),
            "sums": list(self._sums),
            "all": list(self._all),
        }


# What of the φ of logarithms is left in the share beyond a quantile, for a user's own speed that is normal in
# logarithms: density(z)² / (q (1 - q)).
_LEFT: Final = {0.5: 0.64, 0.95: 0.22, 0.99: 0.07}


def of_share(phi: float, q: float) -> float:
    """φ of the share of requests slower than the *q* quantile, from that of the durations' logarithms."""
    return 1.0 + (phi - 1.0) * _LEFT[q]
