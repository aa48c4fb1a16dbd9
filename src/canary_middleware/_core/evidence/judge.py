"""
The judge of one canary version: fed with ticks, asked for a finding.

Everything here may be looked at after every tick. The e-value for "worse than stable" reaches 1/α with a probability of
at most α while the canary is fine (Ville's inequality), for any number of looks, any weights and any stopping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .balance import Balance
from .comparison import MIN_BAD, WARM_UP, Comparison, Cuts
from .dispersion import Dispersion, of_share
from .interference import Interference
from .limit import QUANTILES, Limit, bad_of, share_of
from .onset import reserve
from .past import Past
from .safety import ENOUGH, Safety, margins_of
from .tick import Side, Tick
from .totals import Totals
from .verdict import finding_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..lifecycle.progress import Finding
    from ..plan.schema import Criteria, Criterion, RolloutPlan

SCHEMA: Final = 1
"""Version of ``Judge.state``. Of another one nothing is taken over: the evidence begins anew."""
ALPHA: Final = 0.01
"""Chance that a fine canary is ever rolled back by comparison, in the whole rollout."""
LIMIT_ALPHA: Final = 0.001
"""The same for each guardrail."""
# With fewer requests of stable in it a tick waits for the next: the canary is compared with the same moment.
_LEAST_STABLE: Final = 5
_LONGEST_S: Final = 300.0
SHARED_HOLD_S: Final = 120.0
WEAK: Final = 20.0
"""The e-value that is evidence for waiting, not for acting."""


class Settings(NamedTuple):
    """
    What a judge goes by.

    Attributes:
        stable, canary: the versions' names.
        criteria: what must hold to advance, of the stage in force.
        guardrails: what must hold at any time.
        alpha: chance of a false rollback by comparison.
    """

    stable: str
    canary: str
    criteria: Criteria
    guardrails: Criteria
    alpha: float = ALPHA


def settings_of(plan: RolloutPlan, version: str, stage: int | None = None) -> Settings:
    """
    What the judge of *version* goes by under *plan*.

    Args:
        stage: index of the stage in force, whose own criteria count where it has some.
    """
    own = plan.stages[stage].criteria if stage is not None and 0 <= stage < len(plan.stages) else None
    # Of several canaries each has its own judge: together they may err no more often.
    alpha = ALPHA / len(plan.canaries)
    return Settings(plan.stable, version, plan.criteria if own is None else own, plan.guardrails, alpha)


class Watched(NamedTuple):
    """One absolute limit: its evidence against the canary, and against stable."""

    criterion: Criterion
    canary: Limit
    stable: Limit
    is_guardrail: bool

    @property
    def is_family(self) -> bool:
        """Whether breaking it is one of the reasons among which α is split."""
        return not self.is_guardrail and self.criterion.action == "rollback"

    @property
    def is_shared(self) -> bool:
        """Whether stable breaks it too, 19 to 1."""
        return self.stable.evidence >= WEAK

    @property
    def evidence(self) -> float:
        """The e-value that the canary breaks it; no more than 1 where stable does too."""
        return min(self.canary.evidence, 1.0) if self.is_shared else self.canary.evidence


class Judge:
    """
    What is known of one canary version.

    Args:
        settings: what to go by.
        state: of another judge's ``state``; it goes on exactly where that one was.
    """

    def __init__(self, settings: Settings, state: Mapping[str, Any] | None = None) -> None:
        saved: Mapping[str, Any] = state if state is not None and state.get("schema") == SCHEMA else {}
        self.settings = settings
        self.stage, self.stages, self.compares = saved.get("place", (0, 1, True))
        self.at_s: float | None = saved.get("at_s")
        self.seconds = float(saved.get("seconds", 0.0))
        self.seen = int(saved.get("seen", 0))
        self.identities = int(saved.get("identities", 0))
        """Identities that the canary has served in the whole run."""
        self.stable, self.canary = Totals(saved.get("stable")), Totals(saved.get("canary"))
        self.comparison = Comparison(saved.get("comparison"))
        self.safety = Safety(margins_of(settings.criteria), saved.get("safety"))
        self.balance = Balance(saved.get("balance"))
        self.interference = Interference(saved.get("interference"))
        self.past = Past(saved.get("past"))
        self._spread_stable, self._spread_canary = (Dispersion(part) for part in saved.get("spread", (None, None)))
        self.phis: tuple[float, float] = tuple(saved.get("phis", (1.0, 1.0)))
        self._highest: tuple[float, float] = tuple(saved.get("highest", (1.0, 1.0)))
        self._waiting: Tick | None = None
        waiting = saved.get("waiting")
        if waiting is not None:
            from .tick import from_plain

            self._waiting = from_plain(waiting)
        self._limits(saved.get("limits", {}))
        self.firing_since: dict[str, float] = dict(saved.get("firing", {}))

    def _limits(self, saved: Mapping[str, Any]) -> None:
        self.watched: dict[str, Watched] = {}
        sources = ((self.settings.guardrails, True), (self.settings.criteria, False))
        for criteria, is_guardrail in sources:
            for criterion in criteria.limits:
                share = share_of(criterion)
                if share is None or share >= 1.0:
                    continue
                key = f"{'guardrail' if is_guardrail else 'criterion'} {criterion.metric} {dict(criterion.limits)}"
                theirs = saved.get(key, (None, None))
                self.watched[key] = Watched(criterion, Limit(share, theirs[0]), Limit(share, theirs[1]), is_guardrail)

    def enter(self, stage: int, stages: int, *, compares: bool = True) -> None:
        """
        A stage begins: what it needs is counted from here on, what is known of harm stays known.

        Args:
            stage: 0 is the first of those *stages* in which both versions get requests.
            compares: whether both do in this one; with nobody or everybody on the canary nothing can be compared.
        """
        self.stage, self.stages, self.compares = stage, max(stages, 1), compares
        self.stable, self.canary = Totals(), Totals()
        self.seconds = 0.0

    @property
    def needed(self) -> float:
        """The e-value of safety that the stage asks for: 20 at the last, less before."""
        return float(ENOUGH ** (min(self.stage + 1, self.stages) / self.stages))

    @property
    def rollback_evidence(self) -> float:
        """The e-value that the canary is worse than stable."""
        families = [self.comparison.errors.evidence, self.comparison.latency]
        families += [w.evidence for w in self.watched.values() if w.is_family]
        return sum(families) / len(families)

    @property
    def is_condemned(self) -> bool:
        """Whether the canary must be rolled back for being worse than stable. Cheap."""
        if self.rollback_evidence < 1.0 / self.settings.alpha:
            return False
        return max([self.comparison.bad, *(w.canary.bad for w in self.watched.values() if w.is_family)]) >= MIN_BAD

    def observe(self, tick: Tick) -> None:
        """
        Take in one tick. Those that are not after the one before are dropped: a window that was judged is closed.
        """
        if self.at_s is not None and tick.at_s <= self.at_s:
            return
        self.at_s = tick.at_s
        stable, canary = tick.stable, tick.canary
        if tick.weight_ppm <= 0 and not canary.requests and not self.seen:
            self.past.add(stable)
            self.interference.before(stable)
            return
        self.seconds += tick.seconds
        self.stable.add(stable)
        self.canary.add(canary)
        kept = reserve(self.seen)
        for watched in self.watched.values():
            criterion = watched.criterion
            watched.canary.add(bad_of(criterion, canary), canary.requests, self._phi(criterion), kept)
            watched.stable.add(bad_of(criterion, stable), stable.requests, self._phi(criterion), kept)
        self._note_firing(tick.at_s)
        self.identities += canary.identities
        new_stable, new_canary = tick.arrivals or (stable.identities, canary.identities)
        self.balance.add(new_canary, new_stable, tick.weight_ppm, kept)
        self.interference.add(stable)
        self._compare(tick)

    def _phi(self, criterion: Criterion) -> float:
        q = QUANTILES.get(criterion.metric)
        return self.phis[0] if q is None else of_share(self.phis[1], q)

    def _note_firing(self, now_s: float) -> None:
        for key, watched in self.watched.items():
            if watched.is_guardrail:
                if watched.canary.evidence >= 1.0 / LIMIT_ALPHA and watched.canary.bad >= MIN_BAD:
                    self.firing_since.setdefault(key, now_s)
                elif watched.canary.evidence < WEAK:
                    self.firing_since.pop(key, None)

    def _compare(self, tick: Tick) -> None:
        if self._waiting is not None:
            before = self._waiting
            seconds = before.seconds + tick.seconds
            both = before.stable.plus(tick.stable), before.canary.plus(tick.canary)
            tick = Tick(before.at_s, tick.weight_ppm, *both, seconds)
        if tick.stable.requests < _LEAST_STABLE and tick.seconds < _LONGEST_S:
            self._waiting = tick
            return
        self._waiting = None
        stable, canary = tick.stable, tick.canary
        if stable.requests and canary.requests:
            is_warm = self.seen >= WARM_UP
            cuts = Cuts(self.past, stable, canary) if is_warm else None
            self.comparison.add(stable, canary, self.phis, reserve(self.seen), cuts)
            self.safety.add(stable, canary, self.phis, self.past, is_warm=is_warm)
        self.seen += canary.requests
        self.past.add(stable)
        self._spread(stable, canary)

    def _spread(self, stable: Side, canary: Side) -> None:
        """How alike a user's requests are, for the ticks to come."""
        self._spread_stable.add(stable)
        self._spread_canary.add(canary)
        errors = max(self._spread_stable.errors(), self._spread_canary.errors())
        durations = max(self._spread_stable.durations(), self._spread_canary.durations())
        self.phis = errors, durations
        # Against the highest so far: an estimate that goes up and down by chance must not wear the evidence away.
        before = self._highest
        if errors > before[0] or durations > before[1]:
            self._highest = max(errors, before[0]), max(durations, before[1])
            power = before[0] / self._highest[0]
            self.comparison.temper(power, before[1], self._highest[1])
            self.safety.temper(power, before[1], self._highest[1])

    def finding(self) -> Finding:
        """What follows from all that was seen."""
        return finding_of(self)

    def state(self) -> dict[str, Any]:
        """What another judge goes on from: plain data, fit for JSON, some kilobytes."""
        from .tick import to_plain

        return {
            "schema": SCHEMA,
            "place": [self.stage, self.stages, self.compares],
            "at_s": self.at_s,
            "seconds": self.seconds,
            "seen": self.seen,
            "identities": self.identities,
            "stable": self.stable.state(),
            "canary": self.canary.state(),
            "comparison": self.comparison.state(),
            "safety": self.safety.state(),
            "balance": self.balance.state(),
            "interference": self.interference.state(),
            "past": self.past.state(),
            "spread": [self._spread_stable.state(), self._spread_canary.state()],
            "phis": list(self.phis),
            "highest": list(self._highest),
            "waiting": None if self._waiting is None else to_plain(self._waiting),
            "limits": {key: [w.canary.state(), w.stable.state()] for key, w in self.watched.items()},
            "firing": dict(self.firing_since),
        }
