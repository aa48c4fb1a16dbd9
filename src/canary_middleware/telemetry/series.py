"""
Our instruments, and the attribute sets of their points: the same for our own pipeline and for a foreign one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, Union

from .._core.tallies import BOUNDS_S, OTEL_BOUNDS_S
from .._core.tallies import OVERFLOW as OVERFLOW_METHOD
from .._troubles import logger
from . import names

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from .._core.lifecycle.rollout import Rollout
    from .._core.tallies import Cell, Series, Snapshot

    Attributes = Mapping[str, str | int | bool]
    Value = Union[float, "Distribution"]  # noqa: UP007 - a forward reference, evaluated
    # A database operation: rollout, version, system, operation, error.type.
    DbKey = tuple[str, str, str, str, str | None]
    CacheKey = tuple[str, str, str]
    Point = tuple[Hashable, Attributes, Value]
    Points = dict[Hashable, tuple[Attributes, Value]]

MAX_SETS: Final = 2000
"""Attribute sets per instrument, the overflow set included. The Python SDK has no limit of its own."""

OVERFLOW_SET: Final[Attributes] = {names.OVERFLOW: True}
# One of our fine buckets lies in exactly one of the standard ones.
_STANDARD: Final = (*(bisect_left(OTEL_BOUNDS_S, bound) for bound in BOUNDS_S), len(OTEL_BOUNDS_S))


class Counting(Protocol):
    """Where requests are counted."""

    def snapshot(self) -> Snapshot:
        """Totals of this process; monotone from one call to the next."""
        ...


class Subject(Protocol):
    """What telemetry asks of a Canary."""

    @property
    def counts(self) -> Counting:
        """What this process has counted."""
        ...

    def rollouts(self) -> Sequence[Rollout]:
        """All rollouts as they stand."""
        ...

    def internal_errors(self) -> Mapping[tuple[str, str], int]:
        """(component, error class) → how often, since the process started."""
        ...

    def snapshot_age_s(self) -> float:
        """Seconds since the rollouts' state was last confirmed by the store."""
        ...


Kind = Literal["counter", "updown", "gauge", "histogram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One instrument of ours. *bounds* are a histogram's, in seconds."""

    name: str
    unit: str
    description: str
    kind: Kind
    bounds: Sequence[float] = ()


class Distribution:
    """A histogram's point: *buckets* holds one count per bound and one beyond."""

    __slots__ = ("buckets", "count", "total")

    def __init__(self, buckets: list[int], count: int = 0, total: float = 0.0) -> None:
        self.buckets = buckets
        self.count = count
        self.total = total

    def add(self, other: Distribution) -> None:
        """Add *other*'s observations."""
        self.count += other.count
        self.total += other.total
        for index, n in enumerate(other.buckets):
            self.buckets[index] += n

    def copy(self) -> Distribution:
        """An equal one of its own."""
        return Distribution(list(self.buckets), self.count, self.total)

    def minus(self, other: Distribution) -> Distribution:
        """What came since *other*."""
        buckets = [now - then for now, then in zip(self.buckets, other.buckets, strict=True)]
        return Distribution(buckets, self.count - other.count, self.total - other.total)


DURATION: Final = Instrument(
    name=names.REQUEST_DURATION,
    unit="s",
    description="Duration of requests by version, from the decision to the last byte.",
    kind="histogram",
    bounds=OTEL_BOUNDS_S,
)
DB: Final = Instrument(
    name=names.DB_OPERATION_DURATION,
    unit="s",
    description="Duration of database operations by the version of the request they belong to.",
    kind="histogram",
    bounds=names.DB_BOUNDS_S,
)
CACHE: Final = Instrument(
    name=names.CACHE_OPERATIONS,
    unit="{operation}",
    description="Cache look-ups by version and result.",
    kind="counter",
)
ACTIVE: Final = Instrument(
    name=names.ACTIVE_REQUESTS, unit="{request}", description="Requests being served.", kind="updown"
)
ASSIGNED: Final = Instrument(
    name=names.ASSIGNMENTS, unit="{assignment}", description="Requests assigned, by reason.", kind="counter"
)
ABORTED: Final = Instrument(
    name=names.ABORTED_REQUESTS,
    unit="{request}",
    description="Requests whose client left before the last byte: neither success nor failure.",
    kind="counter",
)
FELL_BACK: Final = Instrument(
    name=names.FALLBACKS,
    unit="{fallback}",
    description="Failures of a canary that stable answered.",
    kind="counter",
)
MISSED: Final = Instrument(
    name=names.FALLBACKS_MISSED,
    unit="{fallback}",
    description="Failures of a canary that stable could not answer, and why.",
    kind="counter",
)
ERRORS: Final = Instrument(
    name=names.INTERNAL_ERRORS,
    unit="{error}",
    description="Failures inside the middleware; stable served.",
    kind="counter",
)
WEIGHT: Final = Instrument(
    name=names.ROLLOUT_WEIGHT, unit="1", description="Share of identities on the version, 0 … 1.", kind="gauge"
)
REVISION: Final = Instrument(
    name=names.ROLLOUT_REVISION,
    unit="{revision}",
    description="Revision of the rollout that this process serves.",
    kind="gauge",
)
AGE: Final = Instrument(
    name=names.SNAPSHOT_AGE,
    unit="s",
    description="Time since this process last saw the rollouts' state confirmed.",
    kind="gauge",
)
INSTRUMENTS: Final = (
    DURATION, ACTIVE, ABORTED, ASSIGNED, FELL_BACK, MISSED, ERRORS, WEIGHT, REVISION, AGE, DB, CACHE,
)  # fmt: skip


class Admission:
    """
    Which keys of one instrument get an attribute set of their own.

    The first MAX_SETS - 1 do and keep it; all later ones share one, so that no series ever goes down.
    """

    def __init__(self, instrument: str) -> None:
        self._instrument = instrument
        self._sets: dict[Hashable, Attributes] = {}
        self._has_warned = False

    def get(self, key: Hashable) -> Attributes | None:
        """The set of a key that is known."""
        return self._sets.get(key)

    def admit(self, key: Hashable, attributes: Attributes) -> Attributes:
        """The set under which *key* is reported: *attributes*, or the overflow set."""
        if len(self._sets) < MAX_SETS - 1:
            return self._sets.setdefault(key, attributes)
        if not self._has_warned:
            self._has_warned = True
            logger().warning(
                "%s has reached %d attribute sets in this process; further ones are reported together as "
                "otel.metric.overflow. Look for a route that is not a template, or an error class made per request.",
                self._instrument,
                MAX_SETS,
            )
        return OVERFLOW_SET


def duration_key(series: Series) -> Hashable:
    """What tells two streams of the duration histogram apart: everything but the reason."""
    variant = series.variant
    label = _label(series.method)
    return (variant.rollout, variant.version, label, series.status, series.route, series.error_type)


def duration_attributes(series: Series) -> Attributes:
    """The labels of one stream of the duration histogram."""
    if series.method == OVERFLOW_METHOD:
        return OVERFLOW_SET
    found: dict[str, str | int] = {
        names.VERSION: series.variant.version,
        names.ROLLOUT: series.variant.rollout,
        names.HTTP_METHOD: _label(series.method),
    }
    if series.status:
        found[names.HTTP_STATUS] = series.status
    if series.error_type is not None:
        found[names.ERROR_TYPE] = series.error_type
    if series.route is not None:
        found[names.HTTP_ROUTE] = series.route
    return found


def _label(method: str) -> str:
    """A websocket's duration is that of its handshake, which is a GET (RFC 6455 §4.1)."""
    return "GET" if method == "WEBSOCKET" else method


def standard(cell: Cell) -> Distribution:
    """A cell's fine buckets in OpenTelemetry's: exact, because the standard bounds are among ours."""
    buckets = [0] * (len(OTEL_BOUNDS_S) + 1)
    for index, n in cell.buckets.items():
        buckets[_STANDARD[index]] += n
    return Distribution(buckets, sum(buckets), cell.total_s)


def shares(rollout: Rollout) -> Iterable[tuple[str, float]]:
    """(version, share of identities 0 … 1) of *rollout* as it stands."""
    plan = rollout.plan
    canary = rollout.effective_ppm if rollout.enabled and plan.enabled else 0
    if not rollout.stable_enabled:
        canary = 1_000_000
    total = sum(share for _, share in plan.canaries) or 1
    yield plan.stable, (1_000_000 - canary) / 1_000_000
    for version, share in plan.canaries:
        yield version, canary * share / total / 1_000_000


def db_attributes(key: DbKey) -> Attributes:
    """The labels of one stream of the database histogram."""
    rollout, version, system, operation, error = key
    found = {**version_attributes(rollout, version), names.DB_SYSTEM: system, names.DB_OPERATION: operation}
    if error is not None:
        found[names.ERROR_TYPE] = error
    return found


def version_attributes(rollout: str, version: str) -> dict[str, str]:
    """The labels that every metric of a version has."""
    return {names.VERSION: version, names.ROLLOUT: rollout}
