"""
What a store holds, as plain data: rollouts, events, workers. Versioned: an old process knows what it cannot read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from ...errors import ConfigError, StaleRevision
from ..assignment.bucketing import BUCKETS
from ..assignment.identity import Unreadable, parse_source
from ..plan.changes import declared_by
from ..plan.schema import Plan, parse, to_mapping
from .rollout import Phase, Rollout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..assignment.identity import Source

SCHEMA: Final = 1
"""Version of the records below. A higher one is refused, and the last good state stays in force."""


_PHASES: Final[tuple[str, ...]] = get_args(Phase)


SILENT_S: Final = 10.0
"""A worker beats every 2 s, and every 5 s while its store is away: one unheard for longer was killed or is stuck."""
BEGINNINGS: Final = frozenset({"register", "start", "retry"})
"""Verbs of the audit trail with which a run begins."""


class NewerSchema(ConfigError):
    """The record was written by a newer release; the operator must upgrade this process before it can follow."""


class Lease(NamedTuple):
    """Who may act for all: *holder* of the lease *name*, under the fencing token that ``acquire`` gave."""

    name: str
    holder: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    One line of the audit trail. Append-only.

    Attributes:
        at_s: Unix seconds, by the clock of who wrote it.
        actor: who: a person, ``env``, ``guardrail``, ``controller`` …
        verb: what: ``set``, ``advance``, ``rollback`` …
        before, after: weight in ppm, phase and stage, before and after.
        reason: why, in a sentence.
        evidence: what a machine can read of it.
    """

    rollout: str
    revision: int
    at_s: float
    actor: str
    verb: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """
    One serving process, as it last said of itself.

    Attributes:
        id: unique for the process's life: host, pid and a random part.
        seen_s: Unix seconds by the store's clock (Redis) or the host's (SQLite).
        revisions: rollout → revision that its requests see.
        stale_s: seconds since its state was last known to be current.
        note: what an operator should know of it, in a sentence.
        pinned: rollout → weight in ppm that its environment pins; such a rollout follows no ``set``.
    """

    id: str
    host: str
    pid: int
    seen_s: float
    revisions: Mapping[str, int]
    stale_s: float = 0.0
    note: str = ""
    pinned: Mapping[str, int] = field(default_factory=dict)


def to_record(rollout: Rollout) -> dict[str, Any]:
    """*rollout* as plain data that JSON can hold. What the environment pins in one process is not part of it."""
    return {
        "schema": SCHEMA,
        "plan": to_mapping(Plan(rollouts=(rollout.plan,)))["rollout"][rollout.name],
        "name": rollout.name,
        "weight_ppm": rollout.weight_ppm,
        "phase": rollout.phase,
        "phase_reason": rollout.phase_reason,
        "stage": rollout.stage,
        "revision": rollout.revision,
        "resume_to": rollout.resume_to,
        "approved": rollout.approved,
        "declared": declared_by(rollout),
        "superseded": list(rollout.superseded),
    }


def _without_shadow(stage: object) -> object:
    return {key: value for key, value in stage.items() if key != "shadow"} if isinstance(stage, dict) else stage


def from_record(record: Mapping[str, Any]) -> Rollout:
    """
    The rollout that ``to_record`` wrote.

    Raises:
        NewerSchema: by a release that knows more than this one.
        ConfigError: it is damaged; says what is missing.
    """
    schema = record.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise NewerSchema(f"the state has schema {schema!r}, this release reads up to {SCHEMA}: upgrade this process")
    try:
        fields = dict(record["plan"])
        fields["key"] = [_source(spec) for spec in fields.get("key", ())]
        # Earlier releases took shadow stages, and served the canary there; refusing one here would keep people from a
        # rollback of what is in the store.
        fields["stages"] = [_without_shadow(stage) for stage in fields.get("stages", ())]
        plan = parse({"schema": 1, "rollout": {record["name"]: fields}}).rollouts[0]
        return Rollout(
            plan=plan,
            weight_ppm=_number(record, "weight_ppm", 0, BUCKETS),
            phase=_one_of(record, "phase", _PHASES),
            phase_reason=str(record["phase_reason"]),
            stage=_number(record, "stage", -1),
            revision=_number(record, "revision", 0),
            resume_to=_one_of(record, "resume_to", (None, *_PHASES)),
            approved=_number({"approved": -1, **record}, "approved", -1),
            declared=record.get("declared", ""),
            superseded=tuple(record.get("superseded", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the state of a rollout is damaged ({error!r}): restore it, or start the plan anew"
        ) from error


def _number(record: Mapping[str, Any], key: str, lowest: int, highest: int | None = None) -> int:
    value: int = record[key]
    # Somebody's edit by hand must not reach a router: "30" is no weight, and 2,000,000 ppm would be everybody.
    if type(value) is not int or value < lowest or (highest is not None and value > highest):
        raise TypeError(f"{key} is {value!r}")
    return value


def _one_of(record: Mapping[str, Any], key: str, known: tuple[str | None, ...]) -> Any:  # Any: Phase, or None
    if record[key] not in known:
        raise TypeError(f"{key} is {record[key]!r}")
    return record[key]


def _source(spec: str) -> Source:
    try:
        return parse_source(spec)
    except ConfigError:
        return Unreadable(spec)


def summary_of(rollout: Rollout) -> dict[str, Any]:
    """What an Event says of a rollout before and after."""
    return {"weight_ppm": rollout.weight_ppm, "phase": rollout.phase, "stage": rollout.stage}


def stale(name: str, there: int | None, expect: int | None, last: Event | None) -> StaleRevision:
    """
    The error for a lost race: which revision of the rollout called *name* is in place, and who wrote it.

    Args:
        there: the revision in place; None where there is no such rollout.
        expect: the revision that was decided on; None where the rollout was taken for new.
        last: the last line of its audit trail, if there is one.
    """
    by = f" by {last.actor} ({last.verb}{f': {last.reason}' if last.reason else ''})" if last else ""
    if there is None:
        return StaleRevision(
            f"{name!r} is not in the store, you decided on its revision {expect}: the store was emptied; read it again"
        )
    if expect is None:
        return StaleRevision(f"{name!r} exists already, put there{by}: it is at revision {there}; read it again")
    return StaleRevision(
        f"{name!r} was changed{by}: it is at revision {there}, you decided on {expect}. Look at it again, then decide"
    )


def finding_note(name: str) -> str:
    """The name under which a store keeps what the judge last said of a rollout."""
    return f"finding:{name}"
