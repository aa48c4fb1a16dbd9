"""
Guardrails: absolute limits on what a canary may do, watched in each process on every outcome.

A limit on a share is an e-process (``wager``), a limit on exceptions a plain count. The clock, the lock and the names
of traces are handed in; what a trip leads to is the caller's affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ..plan.fields import duration_text
from .e_process import Wager

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from ..exchange import Exchange
    from ..lifecycle.rollout import Reason, Variant
    from ..plan.schema import Action, Criterion, RolloutPlan

ALPHA: Final = 0.001
"""Chance that a limit which holds is ever taken for broken: per limit, version and process, however long it runs."""
MIN_BAD: Final = 3
"""Bad outcomes before a limit on a share can trip, however strict it is."""
SHARED_HOLD_S: Final = 120.0
"""How long a canary may break a limit that stable breaks too before it is rolled back all the same."""

# Evidence for waiting, not for acting: that stable breaks the limit too, 19 to 1. Below it an episode is over; not at
# the threshold itself, which a few good outcomes in between would cross to and fro.
_WEAK_EVIDENCE: Final = 20.0
_SHARED_WITHIN_S: Final = 30.0
# A canary that is worse than stable by more than this is broken, whatever stable suffers from.
_SHARED_RATIO: Final = 3.0
_KEPT: Final = 10  # outcomes that an audit line can hold and a person can read
_UNWATCHED: Final[frozenset[Reason]] = frozenset({"override", "forced"})
# What an ordinary outcome may have on it; canaries that may fall back all have a recording to give back.
_INNOCENT: Final = frozenset({"release", "new_id"})
_AWAY: Final = frozenset({502, 503, 504})
_QUANTILES: Final = {"p50": 0.5, "p95": 0.05, "p99": 0.01}


class Trip(NamedTuple):
    """
    A guardrail that was hit.

    Attributes:
        action: what is to be done: the plan's, or ``hold`` where stable breaks the same limit at the same time.
        limit: the guardrail.
        version: the canary that broke it.
        reason: why, in a sentence.
        evidence: the same for machines, fit for JSON; times as seconds before the trip.
        is_enforced: False in a dry run: it is reported, and nothing is done.
    """

    action: Literal["rollback", "pause", "warn", "hold"]
    limit: Criterion
    version: str
    reason: str
    evidence: Mapping[str, Any]
    is_enforced: bool = True


class _Seen(NamedTuple):
    """A bad outcome, kept as evidence."""

    now: float
    number: int
    method: str
    route: str | None
    status: int
    error: str | None
    duration_s: float
    trace_id: str | None


def is_unavailable(outcome: Exchange) -> bool:
    """Whether the version did not answer at all: 502, 503, 504, or an exception, among them every time-out."""
    return outcome.outcome_status in _AWAY or is_exception(outcome)


def is_exception(outcome: Exchange) -> bool:
    """Whether the version raised. A status that it chose itself, 500 for example, is no exception."""
    error = outcome.outcome_error
    return error is not None and not error.isdigit()


def _share(limit: Criterion) -> tuple[float, Callable[[Exchange], bool]] | None:
    """The share of bad outcomes that *limit* lets pass, and which those are; None where it is no absolute share."""
    if limit.metric == "error_rate" and (most := limit.limit("max")) is not None:
        return most, lambda outcome: outcome.is_failed
    if limit.metric == "availability" and (least := limit.limit("min")) is not None:
        return 1.0 - least, is_unavailable
    if limit.metric in _QUANTILES and (slowest := limit.limit("max")) is not None:
        return _QUANTILES[limit.metric], lambda outcome: outcome.duration > slowest
    return None


class _Watch(ABC):
    """One limit on one version."""

    def __init__(self, limit: Criterion, is_bad: Callable[[Exchange], bool]) -> None:
        self.limit = limit
        self.is_bad = is_bad
        self.bad = 0
        self.kept: deque[_Seen] = deque(maxlen=_KEPT)
        self.since: float | None = None
        """When it began to fire, in this episode; None while it does not."""
        self.is_held = False

    def add(self, seen: _Seen) -> bool:
        """Take in a bad outcome; whether the limit is broken."""
        if self.since is not None and not self._still_fires(seen):
            self.since = None
            self.is_held = False
            self._forget()
        self.bad += 1
        self.kept.append(seen)
        return self._fires(seen)

    def recent_share(self, number: int) -> float:
        """Share of bad outcomes since the oldest one kept."""
        return len(self.kept) / max(number - self.kept[0].number + 1, 1)

    @abstractmethod
    def _still_fires(self, seen: _Seen) -> bool: ...

    @abstractmethod
    def _forget(self) -> None:
        """An episode is over: what was seen in it has been reported."""

    @abstractmethod
    def _fires(self, seen: _Seen) -> bool: ...

    @abstractmethod
    def fires_too(self, number: int, now: float) -> bool:
        """Whether the limit seems broken at present, good enough for waiting."""
        ...

    @abstractmethod
    def evidence(self) -> dict[str, Any]:
        """What speaks for it, in figures."""
        ...

    @abstractmethod
    def sentence(self, version: str, number: int) -> str:
        """What was seen, in a sentence."""
        ...


class _ShareWatch(_Watch):
    """A limit on the share of bad outcomes."""

    def __init__(self, limit: Criterion, share: float, is_bad: Callable[[Exchange], bool]) -> None:
        super().__init__(limit, is_bad)
        self._wager = Wager(share, most=1 / ALPHA)

    def _still_fires(self, seen: _Seen) -> bool:
        return self._wager.quiet(seen.number) >= _WEAK_EVIDENCE

    def _forget(self) -> None:
        self._wager.forget()

    def _fires(self, seen: _Seen) -> bool:
        return self._wager.bad(seen.number) >= 1 / ALPHA and self.bad >= MIN_BAD

    def fires_too(self, number: int, now: float) -> bool:
        is_recent = bool(self.kept) and now - self.kept[-1].now <= _SHARED_WITHIN_S
        return is_recent and self._wager.quiet(number + 1) >= _WEAK_EVIDENCE

    def evidence(self) -> dict[str, Any]:
        return {"e_value": round(self._wager.evidence, 1), "threshold": round(1 / ALPHA)}

    def sentence(self, version: str, number: int) -> str:
        recent, of = len(self.kept), number - self.kept[0].number + 1
        return f"{recent} of the last {of} requests to {version} {_deeds(self.limit)}"


def _deeds(limit: Criterion) -> str:
    """What the bad outcomes did, and what the limit is."""
    if limit.metric == "error_rate":
        return f"failed: more than the error_rate limit of {(limit.limit('max') or 0) * 100:g} % allows"
    if limit.metric == "availability":
        return f"got no answer (502 to 504, exceptions): availability must be {_least(limit)} % or more"
    text = duration_text(limit.limit("max") or 0)
    allowed = _QUANTILES[limit.metric] * 100
    return f"took longer than {text}: the {limit.metric} limit allows that for {allowed:g} %"


def _least(limit: Criterion) -> str:
    return f"{(limit.limit('min') or 0) * 100:g}"


class _BurstWatch(_Watch):
    """So many exceptions within so long: a count, without a model."""

    def __init__(self, limit: Criterion) -> None:
        super().__init__(limit, is_exception)
        self._count = int(limit.limit("count") or 1)
        self._within_s = limit.limit("within") or 0.0
        self._times: deque[float] = deque(maxlen=self._count)

    def _running(self, now: float) -> int:
        while self._times and now - self._times[0] > self._within_s:
            self._times.popleft()
        return len(self._times)

    def _still_fires(self, seen: _Seen) -> bool:
        # The outcome in hand is the last of a full count.
        return self._running(seen.now) >= self._count - 1

    def _forget(self) -> None:
        self._times.clear()

    def _fires(self, seen: _Seen) -> bool:
        self._times.append(seen.now)
        return self._running(seen.now) >= self._count

    def fires_too(self, number: int, now: float) -> bool:
        return self._running(now) >= self._count

    def evidence(self) -> dict[str, Any]:
        return {"exceptions": len(self._times), "within_s": round(self._times[-1] - self._times[0], 3)}

    def sentence(self, version: str, number: int) -> str:
        took = self._times[-1] - self._times[0]
        allowed = f"{self._count} within {duration_text(self._within_s)}"
        return f"{len(self._times)} requests to {version} raised an exception within {took:.3g} s: {allowed} trip"


class _Side:
    """One version: how many outcomes it had, and the limits on it."""

    def __init__(self, version: str, watches: tuple[_Watch, ...]) -> None:
        self.version = version
        self.watches = watches
        # One atomic step, so that good outcomes need no lock however many threads there are.
        self.draw = count(1).__next__
        self._looked = 0

    def number(self) -> int:
        """The number of the outcome in hand. Call with the lock held."""
        return self.draw() - self._looked

    def outcomes(self) -> int:
        """How many outcomes there were. Call with the lock held."""
        # A count tells only by going on.
        self._looked += 1
        return self.draw() - self._looked


class Guard:
    """
    Watches the outcomes of one rollout in one process, until a limit is broken that rolls it back.

    A good outcome costs one look-up and one step of a counter; the arithmetic waits for the next bad one.

    Args:
        plan: its ``guardrails``, ``enforce``, and which version is stable.
        lock: held while a bad outcome is taken in, and for nothing else; may be entered twice by one thread.
        trace_id: names the trace of an exchange, for the evidence; asked about bad outcomes only.
    """

    def __init__(
        self,
        plan: RolloutPlan,
        lock: AbstractContextManager[Any],  # Any: what entering a lock gives differs
        trace_id: Callable[[Exchange], str | None],
    ) -> None:
        self.settings = settings_of(plan)
        self._plan = plan
        self._lock = lock
        self._trace_id = trace_id
        self._sides: dict[str, _Side] = {}
        self._draws: dict[Variant, Callable[[], int]] = {}
        self._slow_s = min((watched.limit("max") or inf for watched in _quantiles(plan)), default=inf)
        self.is_over = False
        """Set once a rollback was asked for, or by whoever puts another guard in its place: it sees nothing more."""

    @property
    def is_watching(self) -> bool:
        """Whether there is a limit that can be broken in process: an absolute one, or one on exceptions."""
        return bool(self._watches())

    def observe(self, outcome: Exchange, now: float) -> Trip | None:
        """
        Take in how one request ended.

        Args:
            outcome: the ended exchange. Overrides and forced versions are left out; a client that left is neither
                good nor bad; a request that stable answered for the canary is the canary's failure.
            now: monotonic seconds.
        Returns:
            what is to be done now, or None. A rollback is asked for once; pause, warn and hold once per episode.
        """
        odd = outcome.odd
        if outcome.status < 500 and outcome.duration <= self._slow_s and (odd is None or odd.keys() <= _INNOCENT):
            try:
                self._draws[outcome.variant]()
            except KeyError:
                self._draw_of(outcome.variant)()
            return None
        return self._unusual(outcome, now)

    def _draw_of(self, variant: Variant) -> Callable[[], int]:
        draw = _nothing if variant.reason in _UNWATCHED else self._side(variant.version).draw
        return self._draws.setdefault(variant, draw)

    def _side(self, version: str) -> _Side:
        found = self._sides.get(version)
        if found is None:
            # Atomic: of two threads that come first, one wins.
            found = self._sides.setdefault(version, _Side(version, self._watches()))
        return found

    def _watches(self) -> tuple[_Watch, ...]:
        found: list[_Watch] = []
        for limit in sorted(self._plan.guardrails.limits, key=lambda one: _SEVERITY[one.action]):
            if limit.metric == "exceptions":
                found.append(_BurstWatch(limit))
            elif (share := _share(limit)) is not None and share[0] < 1:
                found.append(_ShareWatch(limit, *share))
        return tuple(found)

    def _unusual(self, outcome: Exchange, now: float) -> Trip | None:
        if outcome.variant.reason in _UNWATCHED or outcome.is_aborted or _is_unserved(outcome):
            return None
        side = self._side(outcome.variant.version)
        broken = [watch for watch in side.watches if watch.is_bad(outcome)]
        if not broken:
            side.draw()
            return None
        trace_id = self._trace_id(outcome)
        with self._lock:
            return None if self.is_over else self._bad(side, broken, _seen(outcome, side.number(), now, trace_id))

    def _bad(self, side: _Side, watches: list[_Watch], seen: _Seen) -> Trip | None:
        firing = [watch for watch in watches if watch.add(seen)]
        if side.version == self._plan.stable or seen.number < self._plan.guardrails.min_requests:
            return None
        # The gravest first; what another one wants as well it can say at the next bad outcome.
        for watch in firing:
            action = self._action(watch, seen)
            if action is not None:
                self.is_over = action == "rollback" and self._plan.enforce
                return self._trip(action, watch, side, seen)
        return None

    def _action(self, watch: _Watch, seen: _Seen) -> Action | Literal["hold"] | None:
        """What *watch*, which fires, asks for now; None where it has asked already."""
        if watch.since is None:
            watch.since = seen.now
            watch.is_held = watch.limit.action == "rollback" and self._is_shared(watch, seen)
            return "hold" if watch.is_held else watch.limit.action
        if watch.is_held and seen.now - watch.since >= SHARED_HOLD_S:
            watch.is_held = False
            return "rollback"
        return None

    def _is_shared(self, watch: _Watch, seen: _Seen) -> bool:
        """Whether stable breaks the same limit now, and not much less than the canary."""
        stable = self._side(self._plan.stable)
        number = stable.outcomes()
        theirs = next(one for one in stable.watches if one.limit == watch.limit)
        if not theirs.fires_too(number, seen.now):
            return False
        return watch.recent_share(seen.number) <= _SHARED_RATIO * theirs.recent_share(number)

    def _trip(self, action: Action | Literal["hold"], watch: _Watch, side: _Side, seen: _Seen) -> Trip:
        reason = watch.sentence(side.version, seen.number)
        if action == "hold":
            reason = f"shared incident: {self._plan.stable} breaks the same limit now ({reason})"
        elif action == "rollback" and watch.since is not None and watch.since < seen.now:
            waited = f"held {seen.now - watch.since:.0f} s because {self._plan.stable} broke it too"
            reason = f"{reason}; {waited}, and it is broken still"
        evidence = {
            "guardrail": {watch.limit.metric: dict(watch.limit.limits)},
            "version": side.version,
            "requests": seen.number,
            "bad": watch.bad,
            **watch.evidence(),
            "outcomes": [_plain(one, seen.now) for one in watch.kept],
        }
        return Trip(action, watch.limit, side.version, reason, evidence, self._plan.enforce)


_SEVERITY: Final[Mapping[Action, int]] = {"rollback": 0, "pause": 1, "warn": 2}


def settings_of(plan: RolloutPlan) -> tuple[object, ...]:
    """What of *plan* a guard goes by: where it is the same, what the guard has seen still counts."""
    return (plan.stable, plan.guardrails, plan.enforce)


def _nothing() -> int:
    return 0


def _quantiles(plan: RolloutPlan) -> list[Criterion]:
    return [limit for limit in plan.guardrails.limits if limit.metric in _QUANTILES]


def _is_unserved(outcome: Exchange) -> bool:
    """Whether stable served it because the canary has no code for it: that says nothing of the canary."""
    return outcome.failure is None and outcome.assignment.variant is not outcome.variant


def _seen(outcome: Exchange, number: int, now: float, trace_id: str | None) -> _Seen:
    return _Seen(
        now,
        number,
        outcome.method,
        outcome.route,
        outcome.outcome_status,
        outcome.outcome_error,
        outcome.duration,
        trace_id,
    )


def _plain(seen: _Seen, now: float) -> dict[str, Any]:
    found = {
        "ago_s": round(now - seen.now, 3),
        # The template, never the path: paths hold names.
        "endpoint": f"{seen.method} {seen.route}" if seen.route else seen.method,
        "status": seen.status,
        "error": seen.error,
        "duration_s": round(seen.duration_s, 4),
        "trace_id": seen.trace_id,
    }
    return {key: value for key, value in found.items() if value is not None}
