"""
What telemetry knows of one request while it runs, and the attributes that follow from its assignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from .._core.exchange import Exchange
    from .._core.lifecycle.rollout import Assignment, Variant


class Track:
    """
    One request's telemetry; kept in ``exchange.span``.

    Attributes:
        span: the request's server span, ours or somebody else's; None while nobody has opened one.
        is_ours: whether we opened it and must end it.
        awaits: whether the app below is expected to open it.
        context: what is current while the app runs; None leaves it as it is.
        with_id: whether ``feature_flag.context.id`` is wanted.
        route: what the span was opened with; frameworks know better in the end.
        scheme: ``url.scheme``, where the standard HTTP metric is wanted; else None.
    """

    __slots__ = (
        "awaits", "context", "db_count", "db_s", "hits", "is_ours", "misses", "route", "scheme", "span", "traced",
        "with_id",
    )  # fmt: skip

    def __init__(self, *, with_id: bool, scheme: str | None) -> None:
        self.span: Span | None = None
        self.is_ours = False
        self.awaits = False
        self.context: Context | None = None
        self.with_id = with_id
        self.scheme = scheme
        self.route: str | None = None
        self.db_count = 0
        self.db_s = 0.0
        self.hits = 0
        self.misses = 0
        # Database systems whose spans feed our histogram in this request; see usage.count_db.
        self.traced: set[str] | None = None

    def totals(self) -> dict[str, int | float]:
        """What the request did so far with databases and caches; empty where nothing."""
        found: dict[str, int | float] = {}
        if self.db_count:
            found[names.DB_COUNT] = self.db_count
            found[names.DB_DURATION] = self.db_s
        if self.hits or self.misses:
            found[names.CACHE_HITS] = self.hits
            found[names.CACHE_MISSES] = self.misses
        return found

    def show_totals(self) -> None:
        """Put the totals on a server span that is not ours: nobody tells us when it is about to end."""
        if not self.is_ours and self.span is not None and self.span.is_recording():
            self.span.set_attributes(self.totals())


# Both tables are bounded by the plans: rollouts × versions (× reasons).
_stamps: Final[dict[tuple[str, str], Mapping[str, str]]] = {}
_assigned: Final[dict[tuple[str, str, str], tuple[int, Mapping[str, str]]]] = {}


def stamp(variant: Variant) -> Mapping[str, str]:
    """What every span and log record of a request carries."""
    key = (variant.rollout, variant.version)
    found = _stamps.get(key)
    if found is None:
        found = _stamps[key] = {names.VERSION: variant.version, names.ROLLOUT: variant.rollout}
    return found


def assigned(assignment: Assignment, *, with_id: bool) -> Mapping[str, str]:
    """What the request's server span carries: the stamp, the reason, and the decision as a feature flag's."""
    variant, revision, point = assignment
    key = (variant.rollout, variant.version, variant.reason)
    found = _assigned.get(key)
    if found is None or found[0] != revision:
        found = _assigned[key] = (revision, _attributes(variant, revision))
    if with_id and point is not None:
        # The ring's point is already a keyed hash of the identity, and the same on every service with this plan.
        return {**found[1], names.FLAG_CONTEXT_ID: point.hex()}
    return found[1]


def _attributes(variant: Variant, revision: int) -> Mapping[str, str]:
    return {
        **stamp(variant),
        names.ASSIGNMENT_REASON: variant.reason,
        names.FLAG_KEY: variant.rollout,
        names.FLAG_VARIANT: variant.version,
        names.FLAG_REASON: names.FLAG_REASONS.get(variant.reason, "unknown"),
        names.FLAG_PROVIDER: names.SCOPE,
        names.FLAG_VERSION: str(revision),
    }


def server_attributes(exchange: Exchange) -> Mapping[str, str]:
    """``assigned`` for *exchange* as it is served now."""
    track = exchange.span
    return assigned(exchange.assignment, with_id=isinstance(track, Track) and track.with_id)


def adopt(exchange: Exchange, span: Span) -> bool:
    """Whether *span*, a server span that begins now, is the request's own; it is then kept for the totals."""
    track = exchange.span
    if not isinstance(track, Track) or not track.awaits:
        return False
    track.span = span
    return True
