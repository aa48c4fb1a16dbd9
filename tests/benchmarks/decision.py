"""What it costs to decide."""

from __future__ import annotations

import random
from hashlib import md5
from typing import TYPE_CHECKING, Any

from canary_middleware._core.assignment.endpoints import EndpointTable

from .canaries import canary
from .measure import Timings, compare
from .traffic import users

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effort import Effort
    from .measure import Prepare


def _router() -> Any:
    """What a server asks: the compiled rollout of a Canary."""
    return canary()._slots["checkout"].door.router


def by_hash(effort: Effort) -> Timings:
    """``Router.assign``, from an identity as text to an Assignment, and the usual one-liner on bytes."""

    def peer(count: int) -> Callable[[], object]:
        identities = [user.encode() for user in users(count)]

        def serve() -> None:
            for u in identities:
                int(md5(u).hexdigest(), 16) % 100

        return serve

    return compare(_assigned(), peer, effort)


def by_hash_of_text(effort: Effort) -> Timings:
    """The same, where both begin with what a header gives: text."""

    def peer(count: int) -> Callable[[], object]:
        identities = users(count)

        def serve() -> None:
            for u in identities:
                int(md5(u.encode()).hexdigest(), 16) % 100

        return serve

    return compare(_assigned(), peer, effort)


def _assigned() -> Prepare:
    assign = _router().assign

    def prepare(count: int) -> Callable[[], object]:
        identities = users(count)

        def serve() -> None:
            for u in identities:
                assign(u)

        return serve

    return prepare


def by_endpoint(effort: Effort) -> Timings:
    """Endpoint match and ``Router.assign`` together, with 10,000 templates and with ten."""
    return compare(_matched(10_000), _matched(10), effort)


def _matched(templates: int) -> Prepare:
    assign = _router().assign
    table = EndpointTable((_template(n), n) for n in range(templates))

    def prepare(count: int) -> Callable[[], object]:
        # Seeded: both sides and all processes ask for the same mixture.
        draw = random.Random(20260601)
        asked = [(_path(draw.randrange(templates)), user) for user in users(count)]
        match = table.match

        def serve() -> None:
            for path, user in asked:
                if match("GET", path) is not None:
                    assign(user)

        return serve

    return prepare


def _template(number: int) -> str:
    """One in two has a parameter, one in ten a rest."""
    if number % 10 == 9:
        return f"GET /api/v2/area{number % 100}/files{number}/*"
    return f"GET /api/v2/area{number % 100}/thing{number}" + ("/{id}/turn" if number % 2 else "")


def _path(number: int) -> str:
    if number % 10 == 9:
        return f"/api/v2/area{number % 100}/files{number}/2026/06/report.pdf"
    return f"/api/v2/area{number % 100}/thing{number}" + ("/4711/turn" if number % 2 else "")
