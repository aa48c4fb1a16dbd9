"""
The record that all workers share, and the decision: which version one identity gets.

``Rollout`` is what a store holds. ``Router`` is the same, compiled once per revision for the request path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ..assignment.bucketing import BUCKETS, Draw, Md5Draw, bucket_of, threshold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..plan.schema import RolloutPlan, Segment
    from ..ports import RequestHead

Role = Literal["stable", "canary"]
Phase = Literal["idle", "progressing", "holding", "paused", "baking", "completed", "rolled_back", "locked"]
Reason = Literal[
    "emergency",  # the latch is on
    "disabled",  # the plan or the environment gives nobody the canary
    "rolled_back",  # weight 0 until a human retries; only an authenticated override still gets the canary
    "unknown",  # there is a store, and no state yet
    "forced",  # testing.force
    "override",  # authenticated header or cookie
    "user",  # the plan's user list
    "segment",  # first matching segment rule
    "weight",  # the hash
    "no_identity",  # no source yielded a value
    "retired",  # stable is out of service: everyone gets the canary
    "uncovered",  # no rollout covers this endpoint
    "fallback",  # the canary failed this very request, and stable answers it
    "error",  # something of ours failed; stable serves
]
RANDOMISED: Final[frozenset[Reason]] = frozenset({"weight"})
"""Reasons whose requests are a fair comparison; the judge sees no others."""


class Variant:
    """
    What requests are counted under: one combination of rollout, version, role and reason.

    Interned: equal combinations are the same object, for as long as the process lives, so that counting compares
    identities and a new revision never starts a new series.
    """

    __slots__ = ("reason", "role", "rollout", "version")

    def __init__(self, rollout: str, version: str, role: Role, reason: Reason) -> None:
        self.rollout = rollout
        self.version = version
        self.role: Role = role
        self.reason: Reason = reason

    def __repr__(self) -> str:
        return f"Variant({self.rollout!r}, {self.version!r}, {self.role!r}, {self.reason!r})"


class Variants:
    """The interning table. Bounded by the plan: rollouts × versions × reasons."""

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: dict[tuple[str, str, Role, Reason], Variant] = {}

    def get(self, rollout: str, version: str, role: Role, reason: Reason) -> Variant:
        """The one Variant of this combination."""
        # setdefault is atomic, so two threads agree on the object without a lock.
        return self._table.setdefault((rollout, version, role, reason), Variant(rollout, version, role, reason))


class Assignment(NamedTuple):
    """The version that one request, job or consumer got, and why. Immutable."""

    variant: Variant
    revision: int
    point: bytes | None = None

    @property
    def rollout(self) -> str:
        """The rollout's name; empty where none covers the endpoint."""
        return self.variant.rollout

    @property
    def version(self) -> str:
        """The version's own name, for example ``v2``."""
        return self.variant.version

    @property
    def role(self) -> Role:
        """``stable`` or ``canary``."""
        return self.variant.role

    @property
    def reason(self) -> Reason:
        """Why: one of the words of ``Reason``."""
        return self.variant.reason

    @property
    def bucket(self) -> int | None:
        """Where the identity stands on the ring, 0 … 999 999; None where nothing was hashed."""
        return None if self.point is None else bucket_of(self.point)

    @property
    def is_canary(self) -> bool:
        """Whether this is not the stable version."""
        return self.variant.role == "canary"

    def __repr__(self) -> str:
        v = self.variant
        return (
            f"Assignment(rollout={v.rollout!r}, version={v.version!r}, role={v.role!r}, reason={v.reason!r}, "
            f"bucket={self.bucket}, revision={self.revision})"
        )


class Rollout(NamedTuple):
    """
    One rollout as all workers share it: the plan and where it stands. Changed only by ``_core.lifecycle.transitions``.

    Attributes:
        weight_ppm: share of identities on the canary, 0 … 1 000 000, as last set; see ``effective_ppm``.
        revision: grows by one with every change; what compare-and-set compares.
        stage: index into ``plan.stages`` of the stage in force, -1 before the first.
        pinned_ppm: weight pinned by the environment of this process, or None.
        enabled: False gives everybody stable, whatever the weight.
        stable_enabled: False retires stable: everybody gets the canary, without fallback.
        is_known: False where there is a store and nothing was heard of it yet: everybody gets stable.
        approved: index of the last stage that a person has approved, -1 before any.
        declared: fingerprint of the plan as its authors wrote it; ``plan`` may have changed at run time since.
        superseded: those of the plans before it, newest first.
    """

    plan: RolloutPlan
    weight_ppm: int = 0
    phase: Phase = "idle"
    phase_reason: str = ""
    stage: int = -1
    revision: int = 0
    pinned_ppm: int | None = None
    enabled: bool = True
    stable_enabled: bool = True
    is_known: bool = True
    # The phase, reason and stage to return to when the emergency latch is lifted or a pause ends.
    resume_to: Phase | None = None
    approved: int = -1
    declared: str = ""
    superseded: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The plan's name for it."""
        return self.plan.name

    @property
    def is_latched(self) -> bool:
        """Whether only a human may raise the weight again."""
        return self.phase in ("rolled_back", "locked")

    @property
    def effective_ppm(self) -> int:
        """The weight that requests see: latches win, then the environment's pin, then what was set."""
        if self.is_latched:
            return 0
        return self.weight_ppm if self.pinned_ppm is None else self.pinned_ppm


class _Rule:
    """A segment, compiled: who matches, and what then."""

    __slots__ = ("kind", "limit", "name", "values", "variant")

    def __init__(self, segment: Segment, variant: Variant | None, limit: bytes) -> None:
        self.kind = segment.kind
        self.name = segment.attribute
        self.values = frozenset(segment.values)
        self.variant = variant
        self.limit = limit

    def matches(self, head: RequestHead | None, identity: str | None, attributes: Mapping[str, str]) -> bool:
        if self.kind == "identity":
            return identity in self.values
        value = attributes.get(self.name)
        if value is None and head is not None:
            value = head.header(self.name) if self.kind == "header" else head.attribute(self.name)
        return value in self.values


_NO_ATTRIBUTES: Final[Mapping[str, str]] = {}


class Router:
    """
    One rollout at one revision, compiled for the request path.

    Args:
        rollout: what to serve.
        variants: the process's interning table.
        draws: hash states by (salt, draw, hash), kept across revisions by the caller.
    """

    __slots__ = (
        "is_by_hash_only",
        "_canary",
        "_last",
        "_limit",
        "_no_identity",
        "_point",
        "_prepared",
        "_rules",
        "_split",
        "_stable",
        "_users",
        "_version_draw",
        "fixed",
        "plan",
        "revision",
        "rollout",
        "variants",
    )

    def __init__(self, rollout: Rollout, variants: Variants, draws: dict[tuple[str, str], Draw]) -> None:
        plan = rollout.plan
        self.rollout = rollout
        self.plan = plan
        self.revision = rollout.revision
        self.variants = variants
        draw = Md5Draw() if plan.hash == "md5-100" else _drawn(draws, plan.salt, "rollout")
        self._point = draw.point
        self._prepared = draw.prepared
        self._version_draw = _drawn(draws, plan.salt, "version") if len(plan.canaries) > 1 else None
        total = 0
        split = []
        for version, share in plan.canaries[:-1]:
            total += share
            split.append((threshold(total), version))
        self._split = tuple(split)
        # Shares sum to the whole ring: the last takes what the others leave.
        self._last = plan.canaries[-1][0]  # pyright: ignore[reportGeneralTypeIssues]
        self._limit = threshold(rollout.effective_ppm)
        self._stable = self.variant(plan.stable, "weight")
        self._canary = self.variant(plan.canaries[0][0], "weight")  # pyright: ignore[reportGeneralTypeIssues]
        self._no_identity = Assignment(self.variant(plan.stable, "no_identity"), rollout.revision)
        self.fixed = self._fixed()
        self._users = dict(plan.overrides.users)
        self._rules = tuple(
            _Rule(
                segment,
                None if segment.version is None else self.variant(segment.version, "segment"),
                threshold(segment.weight_ppm or 0),
            )
            for segment in plan.segments
        )

        self.is_by_hash_only = self.fixed is None and rollout.stable_enabled and not self._users and not self._rules

    @property
    def versions(self) -> tuple[str, ...]:
        """The stable version's name, then the canaries'."""
        return (self.plan.stable, *(version for version, _ in self.plan.canaries))

    def variant(self, version: str, reason: Reason) -> Variant:
        """The Variant of *version* under this rollout."""
        role: Role = "stable" if version == self.plan.stable else "canary"
        return self.variants.get(self.plan.name, version, role, reason)

    def _fixed(self) -> Variant | None:
        """The one answer for everybody, where the rollout's state leaves no choice; None where it does."""
        rollout = self.rollout
        if rollout.phase == "locked":
            return self.variant(self.plan.stable, "emergency")
        # Above "unknown": that stable is retired, this process knows without a store.
        if not rollout.is_known and rollout.stable_enabled:
            return self.variant(self.plan.stable, "unknown")
        if not rollout.stable_enabled:
            # Which canary, and who is pinned to the retired version, still depends on the identity; see _assign().
            if self._version_draw is None and not self.plan.overrides.users:
                return self.variant(self.plan.canaries[0][0], "retired")
            return None
        if not rollout.enabled or not self.plan.enabled:
            return self.variant(self.plan.stable, "disabled")
        if rollout.phase == "rolled_back":
            return self.variant(self.plan.stable, "rolled_back")
        return None

    def canary_version(self, identity: str) -> str:
        """Which of the canaries *identity* gets if it gets one: fixed shares, untouched by the ramp."""
        if self._version_draw is not None:
            point = self._version_draw.point(identity)
            for limit, version in self._split:
                if point < limit:
                    return version
        return self._last

    def overridden(self, wanted: str) -> Assignment | None:
        """
        The assignment of an authenticated override: ``always``, ``never`` or a version's name.

        None for a version that this rollout does not have, and while a latch or switch is above overrides.
        """
        if self.fixed is not None and self.fixed.reason in ("emergency", "disabled"):
            return None
        plan = self.plan
        version = {"always": plan.canaries[0][0], "never": plan.stable}.get(wanted, wanted)
        if version != plan.stable and all(version != name for name, _ in plan.canaries):
            return None
        return Assignment(self.variant(version, "override"), self.revision)

    def point(self, identity: str) -> bytes:
        """Where *identity* stands on the ring, as digest bytes."""
        return self._point(identity)

    def assign(
        self,
        identity: str | None,
        head: RequestHead | None = None,
        attributes: Mapping[str, str] = _NO_ATTRIBUTES,
    ) -> Assignment:
        """
        Decide for one identity. Total: every input has an answer, none raises.

        Precedence: emergency, disabled, (override, decided by the caller), user list, segment, hash, no identity.

        Args:
            identity: what must not flip, or None where the request has none.
            head: the request, for segment rules on headers; None outside a request.
            attributes: values for segment rules, where there is no request to read them from.
        """
        if self.is_by_hash_only and identity is not None:
            try:
                # Draw.point, without the call: this line runs for every request.
                data = identity.encode()
                state = self._prepared[len(data)]()
                state.update(data)
                point = state.digest()
            except (UnicodeEncodeError, IndexError):
                point = self._point(identity)
            if point < self._limit:
                variant = self._canary if self._version_draw is None else self._nth(identity, "weight")
            else:
                variant = self._stable
            return _new(Assignment, (variant, self.revision, point))  # type: ignore[no-any-return]
        return self._assign(identity, head, attributes)

    def _nth(self, identity: str, reason: Reason) -> Variant:
        return self.variant(self.canary_version(identity), reason)

    def _assign(self, identity: str | None, head: RequestHead | None, attributes: Mapping[str, str]) -> Assignment:
        if self.fixed is not None:
            return Assignment(self.fixed, self.revision)
        point = None if identity is None else self._point(identity)
        if identity is not None and identity in self._users:
            return Assignment(self.variant(self._users[identity], "user"), self.revision, point)
        if not self.rollout.stable_enabled:
            return Assignment(self._nth(identity or "", "retired"), self.revision, point)
        for rule in self._rules:
            if rule.matches(head, identity, attributes):
                return self._by_rule(rule, identity, point)
        if identity is None or point is None:
            return self._no_identity
        variant = self._nth(identity, "weight") if point < self._limit else self._stable
        return Assignment(variant, self.revision, point)

    def _by_rule(self, rule: _Rule, identity: str | None, point: bytes | None) -> Assignment:
        if rule.variant is not None:
            return Assignment(rule.variant, self.revision, point)
        if identity is None or point is None:
            return self._no_identity
        version = self.canary_version(identity) if point < rule.limit else self.plan.stable
        return Assignment(self.variant(version, "segment"), self.revision, point)


def _drawn(draws: dict[tuple[str, str], Draw], salt: str, name: str) -> Draw:
    found = draws.get((salt, name))
    if found is None:
        found = draws[salt, name] = Draw(salt, name)
    return found


_new: Any = tuple.__new__  # skips NamedTuple's keyword handling: 110 ns instead of 260 on the request path


def assign(
    rollout: Rollout,
    identity: str | None,
    *,
    head: RequestHead | None = None,
    attributes: Mapping[str, str] = _NO_ATTRIBUTES,
) -> Assignment:
    """
    The version that *identity* gets under *rollout*, from first principles; servers use a compiled ``Router``.

    Returns:
        an Assignment; ``bucket`` is None where the answer did not depend on the identity.
    """
    return Router(rollout, Variants(), {}).assign(identity, head, attributes)


def entry_weight(bucket: int) -> float:
    """The lowest weight, in percent with four decimals, at which *bucket* is in the canary."""
    return (bucket + 1) * 100 / BUCKETS
