"""
The plan: what a team writes down before a rollout. Frozen values, validated key by key.

``parse`` takes the mapping of a TOML or JSON file or of keyword arguments and reports every problem at once;
``to_mapping`` gives it back, so that a store can hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict, cast

from ...errors import ConfigError
from ..assignment.bucketing import BUCKETS
from ..assignment.endpoints import validate_template
from ..assignment.identity import Client, Custom, is_header_name, parse_source
from .fields import PPM_PER_PERCENT, Reader, duration_text, parse_duration, parse_percent, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from ..assignment.identity import Source

__all__ = [
    "Criteria",
    "Criterion",
    "Plan",
    "RolloutFields",
    "RolloutPlan",
    "Segment",
    "Stage",
    "parse",
    "parse_duration",
    "parse_percent",
    "to_mapping",
]

Fallback = Literal["never", "safe-methods", "idempotent"]
Action = Literal["rollback", "pause", "warn"]

_NAME_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_QUANTILES: Final = ("p50", "p95", "p99")
_ALL: Final = BUCKETS
MOST_IDENTITIES: Final = 10_000
"""Identities fall into 16,384 places by hash; so many can be asked for."""


class RolloutFields(TypedDict, total=False):
    """The keys of ``[rollout.<name>]``, as ``Canary("name", …)`` takes them."""

    stable: str
    canary: str | Mapping[str, float]
    endpoints: Sequence[str]
    exclude: Sequence[str]
    key: Sequence[Source | str | Callable[..., object]]
    salt: str
    hash: str
    weight: float
    stages: Sequence[float | Mapping[str, Any] | Stage]
    duration: str
    bake: str
    fallback: str
    body_cap: int | str
    json_cap: int | str
    criteria: Mapping[str, Any]
    guardrails: Mapping[str, Any]
    segments: Sequence[Mapping[str, Any]]
    overrides: Mapping[str, Any]
    env: Mapping[str, str]
    enabled: bool
    enforce: bool
    version_header: str | bool | None
    cache_headers: bool
    end_of_life: Mapping[str, Any]
    source: Mapping[str, Any]


class Criterion(NamedTuple):
    """
    One limit on one metric.

    Attributes:
        metric: ``error_rate``, ``availability``, ``p50``, ``p95``, ``p99``, ``exceptions``, ``severe_bugs``,
            ``feedback``, or ``custom.<name>``.
        limits: kind → bound; kinds are max, min, max_increase, max_ratio, count, within. Rates are fractions, times
            seconds.
        action: what happens when it does not hold.
    """

    metric: str
    limits: tuple[tuple[str, float], ...]
    action: Action = "rollback"

    def limit(self, kind: str) -> float | None:
        """The bound of *kind*, or None."""
        return dict(self.limits).get(kind)


class Criteria(NamedTuple):
    """
    What must hold: to advance (criteria), or at any time (guardrails).

    Attributes:
        limits: one per metric.
        min_requests, min_identities: how much of the canary must have been seen first.
    """

    limits: tuple[Criterion, ...] = ()
    min_requests: int = 0
    min_identities: int = 0


class Stage:
    """
    One step of the plan.

    Args:
        weight: percent of identities on the canary, 0 … 100, up to four decimals.
        duration: how long at least, as ``"30m"``; None takes the rollout's.
        approve: whether a human must approve the next step.
        shadow: whether v2 runs aside instead of answering.
        bake: observation behind it, as ``"1h"``.
        advance: when it may end, as ``"Mon-Thu 09:00-17:00 Europe/Berlin"``.
        criteria: what must hold to leave it; None takes the rollout's.
    Raises:
        ConfigError: what is wrong with any of them, all in one message.
    """

    __slots__ = ("advance", "approve", "bake_s", "criteria", "duration_s", "shadow", "weight_ppm")

    weight_ppm: int
    duration_s: float | None
    approve: bool
    shadow: bool
    bake_s: float | None
    advance: str | None
    criteria: Criteria | None

    def __init__(
        self,
        weight: float,
        *,
        duration: str | None = None,
        approve: bool = False,
        shadow: bool = False,
        bake: str | None = None,
        advance: str | None = None,
        criteria: Mapping[str, Any] | Criteria | None = None,
    ) -> None:
        finished = criteria if isinstance(criteria, Criteria) else None
        reader = Reader(
            {
                "weight": weight,
                "duration": duration,
                "approve": approve,
                "shadow": shadow,
                "bake": bake,
                "advance": advance,
                "criteria": None if finished is not None else criteria,
            },
            "",
        )
        fields = _stage_fields(reader)
        reader.raise_problems()
        _fill(self, fields if finished is None else {**fields, "criteria": finished})

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Stage does not change: make another to set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Stage does not change: make another without {name}")

    def __reduce__(self) -> tuple[Callable[[Mapping[str, object]], Stage], tuple[dict[str, object]]]:
        # Copying and pickling would set attributes one by one, which a Stage refuses.
        return _stage_of, ({name: getattr(self, name) for name in self.__slots__},)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__ if getattr(self, name))
        return f"Stage({shown})"


class Segment(NamedTuple):
    """
    A rule for some requests; the first that matches wins.

    Attributes:
        kind: where the value is: ``identity``, ``header`` or ``attribute`` (``region`` is one).
        attribute: the header's or attribute's name; empty for identities.
        values: what it must be one of.
        weight_ppm, version: what then: a weight of its own, or one version for all. Exactly one is set.
    """

    name: str
    kind: Literal["identity", "header", "attribute"]
    attribute: str
    values: tuple[str, ...]
    weight_ppm: int | None = None
    version: str | None = None


class Overrides(NamedTuple):
    """Forced versions: by header or cookie with the token in *token_env*, or by a list of users."""

    header: str | None = "X-Canary"
    cookie: str | None = None
    token_env: str | None = "CANARY_OVERRIDE_TOKEN"  # noqa: S105 - a variable's name
    users: Mapping[str, str] = MappingProxyType({})


class EnvironmentNames(NamedTuple):
    """The variables that steer a rollout from outside; None where none does."""

    weight: str | None = None
    enabled: str | None = None
    stable_enabled: str | None = None


DEFAULT_NAMES: Final = EnvironmentNames(
    weight="API_V2_TRAFFIC_PERCENTAGE", enabled="API_V2_ENABLED", stable_enabled="USE_LEGACY_API_V1"
)


class EndOfLife(NamedTuple):
    """What responses of a superseded stable version say: RFC 9745 and RFC 8594."""

    deprecation: datetime | None = None
    sunset: datetime | None = None
    deprecation_link: str | None = None
    sunset_link: str | None = None
    successor: str | None = None


class AnonymousOptions(NamedTuple):
    """The cookie that ``anonymous`` sets."""

    cookie: str = "canary_id"
    secret_env: str | None = "CANARY_COOKIE_SECRET"  # noqa: S105 - a variable's name
    max_age_s: float = 365 * 24 * 3600
    path: str = "/"
    domain: str | None = None
    secure: bool = True
    httponly: bool = True
    same_site: str | None = "Lax"


class MetricsSource(NamedTuple):
    """
    Where a fleet that already has Prometheus lets the judge read its counts, instead of the store.

    Attributes:
        prometheus: URL of its HTTP API, without ``/api``.
        step_s: how long a tick is; at least two scrapes.
        delay_s: how long after a second its samples are complete.
        token_env: the variable that holds a bearer token, if one is asked for.
    """

    prometheus: str
    step_s: float = 15.0
    delay_s: float = 30.0
    token_env: str | None = None


class RolloutPlan(NamedTuple):
    """
    One ``[rollout.<name>]`` table. Weights in ppm, times in seconds, sizes in bytes.

    With ``enforce`` off, guardrails and criteria only report what they would have done.
    """

    name: str
    stable: str = "v1"
    canaries: tuple[tuple[str, int], ...] = (("v2", _ALL),)
    endpoints: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    key: tuple[Source, ...] = ()
    salt: str = ""
    hash: Literal["blake2b", "md5-100"] = "blake2b"
    weight_ppm: int = 0
    stages: tuple[Stage, ...] = ()
    duration_s: float | None = None
    bake_s: float = 0.0
    fallback: Fallback = "safe-methods"
    body_cap: int = 1024 * 1024
    json_cap: int = 64 * 1024
    criteria: Criteria = Criteria()
    guardrails: Criteria = Criteria()
    segments: tuple[Segment, ...] = ()
    overrides: Overrides = Overrides()
    env: EnvironmentNames = EnvironmentNames()
    enabled: bool = True
    enforce: bool = True
    version_header: str | None = "X-Canary-Version"
    cache_headers: bool = True
    end_of_life: EndOfLife | None = None
    source: MetricsSource | None = None


class Plan(NamedTuple):
    """A whole plan file."""

    rollouts: tuple[RolloutPlan, ...]
    schema: int = 1
    store: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    anonymous: AnonymousOptions = AnonymousOptions()


# -- reading ---------------------------------------------------------------------------------------------------


def parse(mapping: Mapping[str, Any]) -> Plan:
    """
    The plan that *mapping* says.

    Raises:
        ConfigError: every problem in one message, each with its key, its value, and what would be right.
    """
    reader = Reader(_whole(mapping), "")
    schema = reader.integer("schema", 1, least=1)
    if schema != 1:
        reader.problem("schema", schema, "must be 1: this release reads no other")
    store = reader.text("store", None)
    proxies = _proxies(reader)
    anonymous = reader.table("anonymous", _anonymous) or AnonymousOptions()
    tables = reader.mapping("rollout")
    rollouts = []
    for name, table in tables.items():
        path = f"rollout.{name}"
        if not isinstance(table, Mapping):
            reader.problem(path, table, "must be a table")
            continue
        child = reader.child(table, path)
        rollouts.append(_rollout(name, child, is_only=len(tables) == 1))
    if not tables:
        reader.problem("rollout", None, "the plan holds no rollout: add a [rollout.<name>] table")
    reader.finish()
    reader.raise_problems()
    return Plan(rollouts=tuple(rollouts), store=store, trusted_proxies=proxies, anonymous=anonymous)


def _proxies(reader: Reader) -> tuple[str, ...]:
    found = reader.texts("trusted_proxies")
    for n, text in enumerate(found):
        try:
            Client([text])
        except ConfigError as error:
            reader.add(f"trusted_proxies[{n}]: {error}")
    return found


def _whole(plan: object) -> Mapping[str, Any]:  # Any: its values are checked one by one
    if isinstance(plan, Mapping):
        return plan
    raise ConfigError(f"the plan is {plan!r}: must be a table with rollout; Canary.load reads one from a file")


def _rollout(name: str, reader: Reader, *, is_only: bool) -> RolloutPlan:
    _check_name(reader, "", name)
    stable = reader.text("stable", "v1") or ""
    _check_name(reader, "stable", stable)
    canaries = _canaries(reader, stable)
    versions = (stable, *(version for version, _ in canaries))
    duration_s = reader.duration("duration", None)
    criteria = reader.table("criteria", _criteria) or Criteria()
    guardrails = reader.table("guardrails", _guardrails) or Criteria()
    _check_contradictions(reader, criteria, guardrails)
    plan = RolloutPlan(
        name=name,
        stable=stable,
        canaries=canaries,
        endpoints=_templates(reader, "endpoints"),
        exclude=_templates(reader, "exclude"),
        key=_key(reader),
        salt=reader.text("salt", name) or name,
        hash=cast('Literal["blake2b", "md5-100"]', reader.choice("hash", "blake2b", ("blake2b", "md5-100"))),
        weight_ppm=reader.percent("weight", 0),
        stages=_stages(reader),
        duration_s=duration_s,
        bake_s=reader.duration("bake", 0.0) or 0.0,
        fallback=cast("Fallback", reader.choice("fallback", "safe-methods", ("never", "safe-methods", "idempotent"))),
        body_cap=reader.size("body_cap", 1024 * 1024),
        json_cap=reader.size("json_cap", 64 * 1024),
        criteria=criteria,
        guardrails=guardrails,
        segments=_segments(reader, versions),
        overrides=reader.table("overrides", lambda child: _overrides(child, versions)) or Overrides(),
        env=_environment_names(reader, is_only=is_only),
        enabled=reader.flag("enabled", True),
        enforce=reader.flag("enforce", True),
        version_header=_version_header(reader),
        cache_headers=reader.flag("cache_headers", True),
        end_of_life=reader.table("end_of_life", _end_of_life),
        source=reader.table("source", _source),
    )
    _check_source(reader, plan)
    if plan.hash == "md5-100":
        _check_whole_percents(reader, plan)
    reader.finish()
    return plan


def _check_source(reader: Reader, plan: RolloutPlan) -> None:
    """Refuse what a source cannot tell."""
    if plan.source is None:
        return
    every = [plan.criteria, plan.guardrails, *(stage.criteria for stage in plan.stages if stage.criteria is not None)]
    if any(limit.metric.startswith("custom.") for one in every for limit in one.limits):
        reader.problem("source", plan.source.prometheus, "cannot be with custom limits, which are counted in the store")
    if any(one.min_identities for one in every):
        reader.problem("source", plan.source.prometheus, "cannot be with min_identities, which only the store can tell")


def _check_whole_percents(reader: Reader, plan: RolloutPlan) -> None:
    """An identity's place is one of a hundred there: 12.5 % would be 13 % without a word."""
    weights = {"weight": plan.weight_ppm}
    weights |= {f"stages[{n}].weight": stage.weight_ppm for n, stage in enumerate(plan.stages)}
    weights |= {f"segments[{n}].weight": segment.weight_ppm or 0 for n, segment in enumerate(plan.segments)}
    for key, ppm in weights.items():
        if ppm % PPM_PER_PERCENT:
            reader.problem(key, percent(ppm), 'must be a whole percentage with hash = "md5-100", which knows no others')


def _check_name(reader: Reader, key: str, name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not _NAME_LETTERS.issuperset(name):
        reader.problem(key, name, "must be 1 to 100 letters, digits, dots, dashes or underscores: it goes into headers")
    elif name in ("always", "never"):
        reader.problem(key, name, "must be another name: overrides use this word")


def _canaries(reader: Reader, stable: str) -> tuple[tuple[str, int], ...]:
    value = reader.any("canary", "v2")
    shares: tuple[tuple[str, int], ...]
    if isinstance(value, str):
        shares = ((value, _ALL),)
    elif isinstance(value, Mapping) and value:
        shares = tuple((name, reader.to_percent(f"canary.{name}", share)) for name, share in value.items())
        if sum(share for _, share in shares) != _ALL:
            total = percent(sum(share for _, share in shares))
            reader.problem("canary", value, f"shares must add up to 100, not {total:g}")
        if any(share == 0 for _, share in shares):
            reader.problem("canary", value, "a share of 0 serves nobody: leave that version out")
    else:
        reader.problem("canary", value, 'must be a version such as "v2", or shares such as { v2 = 80, v3 = 20 }')
        shares = (("v2", _ALL),)
    for name, _ in shares:
        _check_name(reader, "canary", name)
        if name == stable:
            reader.problem("canary", name, "is the stable version's name too: the two must differ")
    return shares


def _templates(reader: Reader, key: str) -> tuple[str, ...]:
    found = reader.texts(key)
    for template in found:
        try:
            validate_template(template)
        except ConfigError as error:
            reader.add(f"{reader.path(key)}: {error}")
    return found


def _key(reader: Reader) -> tuple[Source, ...]:
    sources: list[Source] = []
    for n, item in enumerate(reader.sequence("key")):
        try:
            if isinstance(item, str):
                sources.append(parse_source(item))
            elif hasattr(item, "read") and hasattr(item, "spec"):
                sources.append(item)
            elif callable(item):
                sources.append(Custom(item))
            else:
                reader.problem(f"key[{n}]", item, 'must be a source such as "header:x-user-id" or a function')
        except ConfigError as error:
            reader.add(f"{reader.path(f'key[{n}]')}: {error}")
    return tuple(sources)


def _stages(reader: Reader) -> tuple[Stage, ...]:
    stages = [_stage(reader, f"stages[{n}]", item) for n, item in enumerate(reader.sequence("stages"))]
    for n, (before, after) in enumerate(pairwise(stages), 1):
        if after.weight_ppm <= before.weight_ppm:
            reader.problem(
                f"stages[{n}].weight",
                percent(after.weight_ppm),
                f"must be above stages[{n - 1}].weight ({percent(before.weight_ppm):g})",
            )
    return tuple(stages)


def _stage(reader: Reader, key: str, item: object) -> Stage:
    if isinstance(item, Stage):
        return item
    child = reader.child(item if isinstance(item, Mapping) else {"weight": item}, reader.path(key))
    fields = _stage_fields(child)
    child.finish()
    return _stage_of(fields)


def _shadow(reader: Reader) -> bool:
    """Refused while there is none: a stage that was meant to harm nobody would serve v2 to everybody."""
    is_shadow = reader.flag("shadow", False)
    if is_shadow:
        reader.problem("shadow", True, "there are no shadow stages yet: leave it out, or begin with a small weight")
    return False


def _stage_fields(reader: Reader) -> dict[str, object]:
    return {
        "weight_ppm": reader.percent("weight", None),
        "duration_s": reader.duration("duration", None),
        "approve": reader.flag("approve", False),
        "shadow": _shadow(reader),
        "bake_s": reader.duration("bake", None),
        "advance": _advance(reader),
        "criteria": reader.table("criteria", _criteria),
    }


def _advance(reader: Reader) -> str | None:
    text = reader.text("advance", None)
    if text is not None:
        from ..lifecycle.schedule import parse_window

        try:
            parse_window(text, reader.path("advance"))
        except ConfigError as error:
            reader.add(str(error))
    return text


def _stage_of(fields: Mapping[str, object]) -> Stage:
    stage = object.__new__(Stage)
    _fill(stage, fields)
    return stage


def _fill(stage: Stage, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        object.__setattr__(stage, name, value)


_RATE_LIMITS: Final = ("max", "max_increase", "max_ratio")
_LIMITS: Final[dict[str, tuple[str, ...]]] = {
    "error_rate": _RATE_LIMITS,
    "availability": ("min",),
    **dict.fromkeys(_QUANTILES, _RATE_LIMITS),
    "exceptions": ("count", "within"),
    "severe_bugs": ("max",),
    "feedback": ("min",),
}
_BY_PEOPLE: Final = ("severe_bugs", "feedback")
"""How often people reported something: whole numbers."""


def _criteria(reader: Reader) -> Criteria:
    return _read_criteria(reader, ("error_rate", "availability", *_QUANTILES, *_BY_PEOPLE))


def _guardrails(reader: Reader) -> Criteria:
    # Feedback that nobody has given yet is no reason to stop anything.
    return _read_criteria(reader, tuple(metric for metric in _LIMITS if metric != "feedback"))


def _read_criteria(reader: Reader, metrics: Sequence[str]) -> Criteria:
    found = []
    for metric in metrics:
        child = reader.optional(metric)
        if child is not None:
            found.append(_criterion(child, metric, _LIMITS[metric]))
    custom = reader.optional("custom")
    if custom is not None:
        for name in list(custom.keys()):
            if not name or not _NAME_LETTERS.issuperset(name):
                custom.problem("", name, "must be letters, digits, dots, dashes or underscores: it names a metric")
            child = custom.optional(name)
            if child is not None:
                found.append(_criterion(child, f"custom.{name}", ("max", "min", "max_increase", "max_ratio")))
        custom.finish()
    identities = reader.integer("min_identities", 0)
    if identities > MOST_IDENTITIES:
        reader.problem("min_identities", identities, f"must be {MOST_IDENTITIES} at most: more are not told apart")
    return Criteria(limits=tuple(found), min_requests=reader.integer("min_requests", 0), min_identities=identities)


def _criterion(reader: Reader, metric: str, kinds: Sequence[str]) -> Criterion:
    named = [kind for kind in kinds if reader.any(kind, None) is not None]
    if not named:
        reader.problem("", None, f"says no limit: give at least one of {', '.join(kinds)}")
    if metric == "exceptions" and len(named) == 1:
        reader.problem("", None, 'needs both count and within, as { count = 5, within = "10s" }')
    # A limit that could not be read is None, and reported already.
    limits = {kind: value for kind in named if (value := _limit(reader, metric, kind)) is not None}
    least, most = limits.get("min"), limits.get("max")
    if least is not None and most is not None and least > most:
        reader.problem("min", least, f"is above max ({most:g}): no value can hold both")
    action = reader.choice("action", "rollback", ("rollback", "pause", "warn"))
    reader.finish()
    return Criterion(metric=metric, limits=tuple(limits.items()), action=cast("Action", action))


def _limit(reader: Reader, metric: str, kind: str) -> float | None:
    if kind == "count":
        return float(reader.integer(kind, 0, least=1))
    if metric in _BY_PEOPLE:
        return float(reader.integer(kind, 0, least=1 if kind == "min" else 0))
    if kind == "within" or (metric in _QUANTILES and kind == "max"):
        return _period(reader, kind, None)
    if kind == "max_ratio":
        return reader.number(kind, least=1.0)
    if metric in ("error_rate", "availability"):
        return reader.rate(kind)
    if metric in _QUANTILES:
        return reader.duration(kind, None)
    return reader.number(kind)


def _period(reader: Reader, key: str, default: float | None, *, least: float = 0.0) -> float | None:
    """A duration in which something can happen: more than none, and at least *least*."""
    found = reader.duration(key, default)
    if found is not None and (found <= 0 or found < least):
        remedy = f"must be {duration_text(least)} or longer" if least else "must be longer than nothing"
        reader.problem(key, reader.any(key, None), remedy)
    return found


def _check_contradictions(reader: Reader, criteria: Criteria, guardrails: Criteria) -> None:
    """Refuse limits of which one makes the other pointless."""
    trips = {limit.metric: limit for limit in guardrails.limits}
    for limit in criteria.limits:
        trip = trips.get(limit.metric)
        if trip is None:
            continue
        needed, tripped = limit.limit("max"), trip.limit("max")
        if needed is not None and tripped is not None and needed > tripped:
            reader.problem(
                f"criteria.{limit.metric}.max",
                needed,
                f"is above guardrails.{limit.metric}.max ({tripped:g}), which rolls back first: lower it",
            )
        least, fatal = limit.limit("min"), trip.limit("min")
        if least is not None and fatal is not None and least < fatal:
            reader.problem(
                f"criteria.{limit.metric}.min",
                least,
                f"is below guardrails.{limit.metric}.min ({fatal:g}), which rolls back first: raise it",
            )


def _segments(reader: Reader, versions: Sequence[str]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for n, item in enumerate(reader.sequence("segments")):
        if not isinstance(item, Mapping):
            reader.problem(f"segments[{n}]", item, "must be a table with name, when, and weight or version")
            continue
        child = reader.child(item, reader.path(f"segments[{n}]"))
        segment = _segment(child, versions)
        child.finish()
        if segment is not None:
            if any(segment.name == other.name for other in segments):
                reader.problem(
                    f"segments[{n}].name",
                    segment.name,
                    "stands twice: give each its own, by which reports tell them apart",
                )
            segments.append(segment)
    return tuple(segments)


def _segment(reader: Reader, versions: Sequence[str]) -> Segment | None:
    name = reader.text("name", None) or ""
    if not name:
        reader.problem("name", None, "must be there: it is what reports call the segment")
    when = reader.optional("when")
    has_weight, has_version = "weight" in reader, "version" in reader
    if has_weight == has_version:
        reader.problem("", None, "must say weight or version, exactly one of them")
    weight = reader.percent("weight", 0) if has_weight else None
    version = reader.text("version", None)
    if version is not None and version not in versions:
        reader.problem("version", version, f"must be one of {', '.join(versions)}")
    if when is None:
        reader.problem("when", None, 'must be there, as { header = "x-region", in = ["eu-west-1"] }')
        return None
    kind, attribute, values = _condition(when)
    when.finish()
    return Segment(name=name, kind=kind, attribute=attribute, values=values, weight_ppm=weight, version=version)


def _condition(when: Reader) -> tuple[Literal["identity", "header", "attribute"], str, tuple[str, ...]]:
    given = [kind for kind in ("identity", "header", "attribute", "region") if kind in when]
    if len(given) != 1:
        when.problem("", None, "must name exactly one of identity, header, region, attribute")
        when.ignore()
        return "attribute", "", ()
    kind = given[0]
    if kind in ("identity", "region"):
        values = when.texts(kind)
        if not values:
            when.problem(kind, None, f'must list at least one, as {kind} = ["a", "b"]')
        return ("identity", "", values) if kind == "identity" else ("attribute", "region", values)
    name = when.text(kind, None) or ""
    values = when.texts("in")
    if not values:
        when.problem("in", None, f'must list what {kind} {name!r} is compared with, as in = ["a", "b"]')
    if kind == "header" and not is_header_name(name):
        when.problem("header", name, "must be a header name (RFC 9110 §5.1), as x-region: it goes into Vary")
    return ("header", name.lower(), values) if kind == "header" else ("attribute", name, values)


def _overrides(reader: Reader, versions: Sequence[str]) -> Overrides:
    users: dict[str, str] = {}
    for version, identities in reader.mapping("users").items():
        if version not in versions:
            reader.problem(f"users.{version}", identities, f"must be one of the versions {', '.join(versions)}")
        if not isinstance(identities, (list, tuple)) or not all(isinstance(i, str) for i in identities):
            reader.problem(f"users.{version}", identities, 'must be a list of identities, as ["qa-1", "qa-2"]')
            continue
        for identity in identities:
            if users.setdefault(identity, version) != version:
                reader.problem("users", identity, f"stands under {users[identity]} and under {version}: keep one")
    return Overrides(
        header=_token(reader, "header", reader.text_or_off("header", "X-Canary")),
        cookie=_token(reader, "cookie", reader.text_or_off("cookie", None)),
        token_env=reader.text("token_env", "CANARY_OVERRIDE_TOKEN"),
        users=users,
    )


def _token(reader: Reader, key: str, name: str | None) -> str | None:
    if name is not None and not is_header_name(name):
        reader.problem(key, name, "must be a token (RFC 9110 §5.6.2), as X-Canary or canary_id: it goes into headers")
    return name


def _environment_names(reader: Reader, *, is_only: bool) -> EnvironmentNames:
    default = DEFAULT_NAMES if is_only else EnvironmentNames()
    child = reader.optional("env")
    if child is None:
        return default
    names = EnvironmentNames(
        weight=child.text_or_off("weight", default.weight),
        enabled=child.text_or_off("enabled", default.enabled),
        stable_enabled=child.text_or_off("stable_enabled", default.stable_enabled),
    )
    child.finish()
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        child.problem("", names._asdict(), "gives one variable two meanings: name each its own, or false for none")
    return names


def _version_header(reader: Reader) -> str | None:
    header = reader.text_or_off("version_header", "X-Canary-Version")
    if header is not None and not _NAME_LETTERS.issuperset(header):
        reader.problem("version_header", header, "must be a header name, or false for none")
    return header


def _end_of_life(reader: Reader) -> EndOfLife:
    deprecation, sunset = reader.moment("deprecation"), reader.moment("sunset")
    if deprecation is not None and sunset is not None and sunset < deprecation:
        reader.problem("sunset", sunset.isoformat(), f"must not be before deprecation ({deprecation.isoformat()})")
    return EndOfLife(
        deprecation=deprecation,
        sunset=sunset,
        deprecation_link=_link(reader, "deprecation_link"),
        sunset_link=_link(reader, "sunset_link"),
        successor=_link(reader, "successor"),
    )


def _source(reader: Reader) -> MetricsSource:
    url = reader.text("prometheus", None) or ""
    if not url.startswith(("http://", "https://")):
        reader.problem("prometheus", url, 'must be the URL of its HTTP API, as "http://prometheus:9090"')
    return MetricsSource(
        prometheus=url.rstrip("/"),
        step_s=_period(reader, "step", 15.0, least=1.0) or 15.0,
        delay_s=reader.duration("delay", 30.0) or 0.0,
        token_env=reader.text("token_env", None),
    )


def _link(reader: Reader, key: str) -> str | None:
    target = reader.text(key, None)
    if target is not None and any(c in '<>"' or not "!" <= c <= "~" for c in target):
        reader.problem(key, target, "must be a URI in ASCII, other letters percent-encoded: it goes into Link")
    return target


def _anonymous(reader: Reader) -> AnonymousOptions:
    default = AnonymousOptions()
    options = AnonymousOptions(
        cookie=_token(reader, "cookie", reader.text("cookie", default.cookie)) or default.cookie,
        secret_env=reader.text("secret_env", default.secret_env),
        max_age_s=_period(reader, "max_age", default.max_age_s, least=1.0) or default.max_age_s,
        path=_cookie_value(reader, "path", default.path) or default.path,
        domain=_cookie_value(reader, "domain", default.domain),
        secure=reader.flag("secure", default.secure),
        httponly=reader.flag("httponly", default.httponly),
        same_site=reader.text_or_off("same_site", default.same_site),
    )
    if not options.path.startswith("/"):
        reader.problem("path", options.path, "must begin with /: browsers take another path for none")
    if options.same_site not in ("Lax", "Strict", "None", None):
        reader.problem("same_site", options.same_site, "must be Lax, Strict or None, or false to leave it out")
    if options.same_site == "None" and not options.secure:
        reader.problem("secure", False, 'must be true with same_site = "None": browsers refuse the cookie otherwise')
    return options


def _cookie_value(reader: Reader, key: str, default: str | None) -> str | None:
    value = reader.text(key, default)
    if value is not None and any(c in ";," or not "!" <= c <= "~" for c in value):
        reader.problem(key, value, "must be ASCII without blanks, commas and semicolons: it goes into Set-Cookie")
    return value


# -- writing ---------------------------------------------------------------------------------------------------


def to_mapping(plan: Plan) -> dict[str, Any]:
    """
    *plan* as plain data that JSON can hold; ``parse`` makes the same plan of it.

    Key functions cannot be written down: they become their ``spec``, which a process without the app cannot read.
    """
    mapping: dict[str, Any] = {"schema": plan.schema}
    if plan.store is not None:
        mapping["store"] = plan.store
    if plan.trusted_proxies:
        mapping["trusted_proxies"] = list(plan.trusted_proxies)
    options = plan.anonymous
    if options != AnonymousOptions():
        mapping["anonymous"] = _without_none(
            cookie=options.cookie,
            secret_env=options.secret_env,
            max_age=duration_text(options.max_age_s),
            path=options.path,
            domain=options.domain,
            secure=options.secure,
            httponly=options.httponly,
            same_site=options.same_site or False,
        )
    mapping["rollout"] = {rollout.name: _rollout_mapping(rollout) for rollout in plan.rollouts}
    return mapping


def _without_none(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _rollout_mapping(plan: RolloutPlan) -> dict[str, Any]:
    canary: Any = plan.canaries[0][0]
    if len(plan.canaries) > 1:
        canary = {name: percent(share) for name, share in plan.canaries}
    return _without_none(
        stable=plan.stable,
        canary=canary,
        endpoints=list(plan.endpoints) or None,
        exclude=list(plan.exclude) or None,
        key=[source.spec for source in plan.key] or None,
        salt=plan.salt,
        hash=plan.hash,
        weight=percent(plan.weight_ppm),
        stages=[_stage_mapping(stage) for stage in plan.stages] or None,
        duration=None if plan.duration_s is None else duration_text(plan.duration_s),
        bake=duration_text(plan.bake_s),
        fallback=plan.fallback,
        body_cap=plan.body_cap,
        json_cap=plan.json_cap,
        criteria=_criteria_mapping(plan.criteria),
        guardrails=_criteria_mapping(plan.guardrails),
        segments=[_segment_mapping(segment) for segment in plan.segments] or None,
        overrides=_overrides_mapping(plan.overrides),
        env={
            "weight": plan.env.weight or False,
            "enabled": plan.env.enabled or False,
            "stable_enabled": plan.env.stable_enabled or False,
        },
        enabled=plan.enabled,
        # Only where it is off: releases that do not know it can follow all other plans.
        enforce=None if plan.enforce else False,
        version_header=plan.version_header or False,
        cache_headers=plan.cache_headers,
        end_of_life=_end_of_life_mapping(plan.end_of_life),
        source=_source_mapping(plan.source),
    )


def _stage_mapping(stage: Stage) -> dict[str, Any]:
    return _without_none(
        weight=percent(stage.weight_ppm),
        duration=None if stage.duration_s is None else duration_text(stage.duration_s),
        approve=stage.approve,
        shadow=stage.shadow,
        bake=None if stage.bake_s is None else duration_text(stage.bake_s),
        advance=stage.advance,
        criteria=None if stage.criteria is None else (_criteria_mapping(stage.criteria) or {}),
    )


def _criteria_mapping(criteria: Criteria) -> dict[str, Any] | None:
    mapping: dict[str, Any] = {}
    for criterion in criteria.limits:
        group, _, name = criterion.metric.partition(".")
        limits: dict[str, Any] = {
            kind: _limit_mapping(criterion.metric, kind, value) for kind, value in criterion.limits
        }
        written = {**limits, "action": criterion.action}
        if name:
            mapping.setdefault(group, {})[name] = written
        else:
            mapping[group] = written
    if criteria.min_requests:
        mapping["min_requests"] = criteria.min_requests
    if criteria.min_identities:
        mapping["min_identities"] = criteria.min_identities
    return mapping or None


def _limit_mapping(metric: str, kind: str, value: float) -> Any:  # Any: as the reader of that key wants it
    if _is_time(metric, kind):
        return duration_text(value)
    return int(value) if kind == "count" or metric in _BY_PEOPLE else value


def _is_time(metric: str, kind: str) -> bool:
    return kind == "within" or (metric in _QUANTILES and kind in ("max", "max_increase"))


def _segment_mapping(segment: Segment) -> dict[str, Any]:
    when: dict[str, Any]
    if segment.kind == "identity":
        when = {"identity": list(segment.values)}
    else:
        when = {segment.kind: segment.attribute, "in": list(segment.values)}
    return _without_none(
        name=segment.name,
        when=when,
        weight=None if segment.weight_ppm is None else percent(segment.weight_ppm),
        version=segment.version,
    )


def _overrides_mapping(overrides: Overrides) -> dict[str, Any]:
    users: dict[str, list[str]] = {}
    for identity, version in overrides.users.items():
        users.setdefault(version, []).append(identity)
    return _without_none(
        header=overrides.header or False,
        cookie=overrides.cookie or False,
        token_env=overrides.token_env,
        users=users or None,
    )


def _source_mapping(source: MetricsSource | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return _without_none(
        prometheus=source.prometheus,
        step=duration_text(source.step_s),
        delay=duration_text(source.delay_s),
        token_env=source.token_env,
    )


def _end_of_life_mapping(end: EndOfLife | None) -> dict[str, Any] | None:
    if end is None:
        return None
    return _without_none(
        deprecation=None if end.deprecation is None else end.deprecation.isoformat(),
        sunset=None if end.sunset is None else end.sunset.isoformat(),
        deprecation_link=end.deprecation_link,
        sunset_link=end.sunset_link,
        successor=end.successor,
    )
