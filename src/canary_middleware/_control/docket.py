"""
One rollout before its judges: what has been seen of its present run, and what follows from it.

Kept in the store as it goes, so that whoever decides next goes on and does not begin again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.assignment.bucketing import BUCKETS
from .._core.evidence import Judge, Side, Tick, settings_of
from .._core.lifecycle.progress import Finding, stage_began
from .._core.lifecycle.records import BEGINNINGS, finding_note
from .._core.tallies import USERS
from .findings import with_tests
from .journal import Journal
from .prometheus import PrometheusSource, SourceAway, Window
from .prometheus import ticks_of as sided_ticks
from .recording_limits import Recorded
from .ticks import places_of, ticks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .._core.lifecycle.records import Event, Lease
    from .._core.lifecycle.rollout import Rollout
    from .._core.ports import Store

    Windows = Sequence[tuple[int, Mapping[str, Any]]]

SCHEMA: Final = 1
BEFORE_S: Final = 600
"""Seconds before a rollout's beginning that tell how stable does without a canary."""
STALE_S: Final = 600.0
"""Without a single request for so long nothing is promoted."""
# Requests of a second in which the weight changed may have been decided under either.
_BLUR_S: Final = 3
_ORDER: Final = ("fail", "error", "inconclusive", "pass")


class Case:
    """
    The judges of one rollout, one for each canary version.

    Args:
        name: of the rollout.
        complain: told in a sentence of counts that cannot be read.
    """

    def __init__(self, name: str, complain: Callable[[str], None]) -> None:
        self.name = name
        self.cursor = 0
        """Beginning of the last window that was judged, in Unix seconds."""
        self.journal = Journal(name)
        self._complain = complain
        self._run_s = -1.0
        self._entered: tuple[int, float] | None = None
        self._judges: dict[str, Judge] = {}
        self._recorded: dict[str, Recorded] = {}
        self._found: dict[str, Any] | None = None
        self._source: PrometheusSource | None = None
        self._sighted: dict[str, set[int]] = {}

    # -- taking over and handing on ---------------------------------------------------------------------------------

    def load(self, store: Store, rollout: Rollout, events: Sequence[Event]) -> None:
        """Go on where the last one who decided was, if that was in the same run; begin otherwise."""
        self._run_s = _began(events)
        saved = store.kept(_note(self.name)) or {}
        if saved.get("schema") != SCHEMA or saved.get("run_s") != self._run_s:
            saved = {}
        states = saved.get("judges", {})
        self.cursor = int(saved.get("cursor", max(0, int(self._run_s) - BEFORE_S)))
        entered = saved.get("entered")
        self._entered = None if entered is None else (int(entered[0]), float(entered[1]))
        self._judges = {
            version: Judge(settings_of(rollout.plan, version, rollout.stage), states.get(version))
            for version, _ in rollout.plan.canaries
        }
        self._sighted = {version: _unpacked(text) for version, text in saved.get("sighted", {}).items()}
        recorded = saved.get("recorded", {})
        self._recorded = {
            version: Recorded(self.name, rollout.plan.stable, version, recorded.get(version))
            for version in self._judges
        }
        self.journal = Journal(self.name, store.kept(self.journal.note) if saved else None)

    def is_of(self, events: Sequence[Event]) -> bool:
        """Whether what it has seen belongs to the run that *events* tell of."""
        return self._run_s == _began(events)

    def keep(self, store: Store, lease: Lease) -> None:
        """
        Leave it for whoever decides next. Raises LeaseLost where that is somebody else already.
        """
        saved = {
            "schema": SCHEMA,
            "run_s": self._run_s,
            "cursor": self.cursor,
            "entered": self._entered,
            "judges": {version: judge.state() for version, judge in self._judges.items()},
            "sighted": {version: _packed(places) for version, places in self._sighted.items()},
            "recorded": {version: recorded.state() for version, recorded in self._recorded.items()},
        }
        store.keep(_note(self.name), saved, lease=lease)
        store.keep(self.journal.note, self.journal.plain(), lease=lease)
        if self._found is not None:
            store.keep(finding_note(self.name), self._found, lease=lease)

    # -- looking ----------------------------------------------------------------------------------------------------

    def look(self, rollout: Rollout, windows: Windows, events: Sequence[Event], now_s: float) -> Finding:
        """
        Take in the windows that are new, and say what follows.

        Args:
            windows: closed ones, oldest first; those up to the cursor are passed over.
            events: the rollout's audit trail, newest first.
            now_s: Unix seconds.
        """
        try:
            fresh = self._fresh(rollout, windows, now_s)
        except SourceAway as error:
            # Nothing is known, and nothing follows but waiting.
            finding = _together([self._finding(version) for version in self._judges])
            return finding._replace(verdict="error", reason=str(error))
        place = (rollout.stage, stage_began(events))
        if self._entered == place:
            self._take_in(rollout, fresh, events)
        else:
            self._take_in(rollout, [window for window in fresh if window[0] < place[1]], events)
            self._enter(rollout, place)
            self._take_in(rollout, [window for window in fresh if window[0] >= place[1]], events)
        finding = _together([self._finding(version) for version in self._judges])
        self.journal.note_point(now_s, rollout, self._judges)
        if finding.verdict == "pass" and now_s - self.cursor > STALE_S:
            return finding._replace(verdict="inconclusive", reason=f"no requests for {now_s - self.cursor:.0f} s")
        return finding

    def _fresh(self, rollout: Rollout, windows: Windows, now_s: float) -> Windows:
        """What has not been judged: of the store's windows, or of the source that the plan names."""
        options = rollout.plan.source
        if options is None:
            return [window for window in windows if window[0] > self.cursor]
        if self._source is None or self._source.options != options:
            self._source = PrometheusSource(options, self.name)
        return [(int(window.begin), window.sides) for window in self._source.read(self.cursor, now_s)]

    def _finding(self, version: str) -> Finding:
        """What the judge of *version* says, and what the app recorded."""
        judge, recorded = self._judges[version], self._recorded[version]
        settings = judge.settings
        tests = recorded.findings(settings.criteria)
        return with_tests(judge.finding(), [*tests, *recorded.findings(settings.guardrails, kind="guardrail")])

    def note_finding(self, finding: Finding, now_s: float) -> None:
        """What was made of it all, for whoever asks for the status."""
        self._found = _summary(finding, self._run_s, now_s)

    def _take_in(self, rollout: Rollout, windows: Windows, events: Sequence[Event]) -> None:
        if not windows:
            return
        plan = rollout.plan
        new = self._newcomers(rollout, windows)
        for version in self._judges:
            judge = self._judge(rollout, version)
            # What came before the stage says nothing of how fast requests come in it.
            before = max(self.cursor, int(stage_began(events)) - 1)
            for counted in self._ticks(rollout, version, windows, events):
                seen = new.get(int(counted.at_s), {})
                own, theirs = seen.get(version, (0, 0)), seen.get(plan.stable, (0, 0))
                tick = counted._replace(canary=counted.canary._replace(identities=own[0]), arrivals=(theirs[1], own[1]))
                if tick.at_s < self._run_s:
                    # What a canary did before a retry is no evidence against this one; stable's past is welcome.
                    tick = Tick(tick.at_s, 0, tick.stable, Side(), arrivals=(0, 0))
                judge.observe(_cleared(tick, events)._replace(seconds=max(1.0, tick.at_s - before)))
                before = int(tick.at_s)
            if plan.source is None:
                self._recorded[version].add(windows, judge.settings.criteria, judge.settings.guardrails)
        self.cursor = windows[-1][0]

    def _newcomers(self, rollout: Rollout, windows: Windows) -> dict[int, dict[str, tuple[int, int]]]:
        """
        By window and version: identities that are new to the version, and those that are new to all.

        As far as places tell: an identity whose place another has taken is not counted, whichever version it has.
        """
        plan = rollout.plan
        found: dict[int, dict[str, tuple[int, int]]] = {}
        if plan.source is not None:
            return found
        for begin, plain in windows:
            known: set[int] = set().union(*self._sighted.values())
            found[begin] = {}
            for version in (plan.stable, *self._judges):
                taken = places_of(plain, self.name, version)
                if taken:
                    mine = self._sighted.setdefault(version, set())
                    found[begin][version] = len(taken - mine), len(taken - known)
                    mine |= taken
        return found

    def _ticks(self, rollout: Rollout, version: str, windows: Windows, events: Sequence[Event]) -> Sequence[Tick]:
        plan = rollout.plan

        def weight_at(second: int) -> int:
            return _weight(events, second)

        if plan.source is None:
            return ticks_of(windows, self.name, plan.stable, version, weight_at, complain=self._complain)
        steps = [Window(float(begin), sides) for begin, sides in windows]
        return sided_ticks(steps, plan.stable, version, weight_at, plan.source.step_s)

    def _judge(self, rollout: Rollout, version: str) -> Judge:
        """The judge of *version*, going by what the plan asks for in the stage in force."""
        judge = self._judges[version]
        settings = settings_of(rollout.plan, version, rollout.stage)
        if judge.settings != settings:
            judge = self._judges[version] = Judge(settings, judge.state())
        return judge

    def _enter(self, rollout: Rollout, place: tuple[int, float]) -> None:
        self._entered = place
        weights = [stage.weight_ppm for stage in rollout.plan.stages]
        compared = [n for n, weight in enumerate(weights) if 0 < weight < BUCKETS]
        position = sum(n <= rollout.stage for n in compared) - 1
        # First: what the stage before has seen in all is forgotten by the judges.
        self.journal.enter(place, self._judges)
        for version in self._judges:
            judge = self._judge(rollout, version)
            self._recorded[version] = Recorded(self.name, rollout.plan.stable, version)
            judge.enter(max(position, 0), len(compared), compares=0 < rollout.weight_ppm < BUCKETS)


_SHOWN: Final = ("version", "e", "threshold", "promotion_threshold", "alpha", "missing", "requests", "dispersion")


def _summary(finding: Finding, run_s: float, now_s: float) -> dict[str, Any]:
    said = {name: finding.evidence[name] for name in _SHOWN}
    return {"run_s": run_s, "at_s": now_s, "verdict": finding.verdict, "reason": finding.reason, **said}


def _packed(places: set[int]) -> str:
    """Places as hex digits, a bit for each."""
    bits = bytearray(USERS // 8)
    for place in places:
        bits[place >> 3] |= 1 << (place & 7)
    return bits.hex()


def _unpacked(text: str) -> set[int]:
    bits = bytes.fromhex(text)
    return {place for place in range(len(bits) * 8) if bits[place >> 3] >> (place & 7) & 1}


def _note(name: str) -> str:
    return f"judge:{name}"


def _began(events: Sequence[Event]) -> float:
    """When the present run began, in Unix seconds."""
    return next((event.at_s for event in events if event.verb in BEGINNINGS), 0.0)


def _weight(events: Sequence[Event], at_s: float) -> int:
    """The weight in ppm at a Unix second."""
    return next((int(event.after.get("weight_ppm", 0)) for event in events if event.at_s <= at_s), 0)


def _cleared(tick: Tick, events: Sequence[Event]) -> Tick:
    """*tick*, without its arrivals where they may have been split by two weights."""
    for event in events:
        is_change = event.before.get("weight_ppm") != event.after.get("weight_ppm")
        if is_change and abs(event.at_s - tick.at_s) <= _BLUR_S:
            return tick._replace(arrivals=(0, 0))
    return tick


def _together(findings: Sequence[Finding]) -> Finding:
    """The gravest of several canaries' findings, with the evidence of all."""
    worst = min(findings, key=lambda finding: (_ORDER.index(finding.verdict), finding.action != "rollback"))
    if len(findings) == 1:
        return worst
    evidence = {str(finding.evidence["version"]): finding.evidence for finding in findings}
    return worst._replace(evidence={**worst.evidence, "versions": evidence})
