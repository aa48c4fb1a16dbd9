"""
What must hold for the demo to be true. A check that fails says what it found, and the demo exits with 1.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canary_middleware._views.acknowledged import TIMEOUT_S

from . import figures
from .acts import FAULT_EVERY
from .steering import followed_s, is_canary_at, settled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .climbing import Climb
    from .service import Service
    from .steering import Run
    from .traffic import Answer


@dataclass(frozen=True, slots=True)
class Check:
    """*says* is what holds; *found* is told where it does not."""

    holds: bool
    says: str
    found: str


def of_split(service: Service, answers: Sequence[Answer]) -> list[Check]:
    """Checks of the first act: sticky, as computed, and complete in the telemetry."""
    served = _served(answers)
    moved = [user for user, versions in served.items() if len(versions) > 1]
    other = [user for user, versions in served.items() if versions != {service.expected.version_for(user)}]
    failed = sum(answer.is_failed for answer in answers)
    return [
        Check(not failed, f"All {len(answers):,} requests succeeded", f"{failed:,} failed"),
        Check(not moved, f"All {len(served):,} users kept one version", f"these changed it: {_some(moved)}"),
        Check(
            not other,
            "Each of them the one that canary.version_for(user) computes",
            f"not for {_some(other)}",
        ),
        *_telemetry(service, answers),
    ]


def of_fallback(service: Service, answers: Sequence[Answer]) -> list[Check]:
    """Checks of the second act: each failure of v2 was answered by v1 and is counted as v2's."""
    failed = sum(answer.is_failed for answer in answers)
    rescued = sum(answer.is_fallback for answer in answers)
    due = sum(service.expected.is_canary(answer.user) for answer in answers) // FAULT_EVERY
    told = service.otlp.counter_total("canary.fallbacks", canary_version="v2")
    blamed = figures.line(service.otlp, "v2").errors
    return [
        Check(not failed, "No user saw an error while v2 was failing", f"{failed:,} did"),
        Check(
            rescued == due > 0,
            f"All {due:,} failures of v2 were answered by v1",
            f"{rescued:,} responses carry X-Canary-Fallback, {due:,} failures were injected",
        ),
        Check(
            told == blamed == rescued,
            "They stand in the telemetry as failures of v2",
            f"canary.fallbacks says {told:,}, errors of v2 are {blamed:,}, the users saw {rescued:,}",
        ),
    ]


def of_steering(service: Service, run: Run) -> list[Check]:
    """Checks of the third act: the split follows each command, in every worker, and nobody is lost on the way."""
    failed = sum(answer.is_failed for answer in run.answers)
    refused = [" ".join(command.words) for command in run.commands if command.exit_code]
    wrong = [
        answer
        for number, command in enumerate(run.commands)
        for answer in settled(run, number)
        if (answer.version == "v2") != is_canary_at(service, answer.user, command.weight)
    ]
    told = sum(len(settled(run, number)) for number in range(len(run.commands)))
    slowest = max(followed_s(service, run, number) for number in range(len(run.commands)))
    return [
        Check(not failed, f"All {len(run.answers):,} requests succeeded", f"{failed:,} failed"),
        Check(not refused, "Every command was acknowledged by both workers", f"not: {', '.join(refused)}"),
        Check(
            not wrong and told > 0,
            f"All {told:,} requests after an acknowledgement got the version of the new weight",
            f"{len(wrong):,} of {told:,} did not: {_some([answer.user for answer in wrong])}",
        ),
        # The command itself would have given up by then.
        Check(
            slowest < TIMEOUT_S,
            f"The split followed within {slowest:.1f} s of the key press",
            f"it took {slowest:.1f} s",
        ),
    ]


def of_climbing(good: Climb, bad: Climb) -> list[Check]:
    """Checks of the act without hands: the good release got everywhere, the bad one went, and no user saw either."""
    moves = [event for _, event in good.events if event.verb != "start"]
    actors = {event.actor for event in moves}
    answers = [*good.answers, *bad.answers]
    failed = sum(answer.is_failed for answer in answers)
    at, last = bad.events[-1]
    late = [a for a in bad.answers if a.begun > at + _FOLLOWED_S and (a.version == "v2" or a.is_fallback)]
    began = bad.events[0][0]
    return [
        Check(
            good.phase == "completed" and actors == {"controller"},
            "The good release got to everybody, each stage by evidence and none by hand",
            f"it is {good.phase}, moved by {', '.join(sorted(actors)) or 'nobody'}",
        ),
        Check(
            bad.phase == "rolled_back" and last.actor == "controller",
            f"The bad one was rolled back by evidence, {at - began:.1f} s after its start",
            f"it is {bad.phase}, last moved by {last.actor}",
        ),
        Check(not late, f"From {_FOLLOWED_S:g} s after that on no request got it", f"{len(late):,} did"),
        Check(not failed, f"All {len(answers):,} requests succeeded, those that it failed too", f"{failed:,} failed"),
    ]


_FOLLOWED_S = 1.0


def _telemetry(service: Service, answers: Sequence[Answer]) -> list[Check]:
    seen = dict(Counter(answer.version for answer in answers))
    lines = {version: figures.line(service.otlp, version) for version in seen}
    measured = {version: line.requests for version, line in lines.items()}
    errors = sum(line.errors for line in lines.values())
    failed = sum(answer.status >= 500 for answer in answers)
    spans = dict(figures.versions(figures.server_spans(service.otlp)))
    return [
        Check(
            measured == seen,
            "The metrics hold each request under its version",
            f"{_tally(measured)}; the users saw {_tally(seen)}",
        ),
        Check(errors == failed, "And no failure that nobody saw", f"{errors:,} errors; the users saw {failed:,}"),
        Check(spans == seen, "The spans carry it too", f"{_tally(spans)}; the users saw {_tally(seen)}"),
    ]


def _served(answers: Sequence[Answer]) -> dict[str, set[str]]:
    served: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        served[answer.user].add(answer.version)
    return served


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{version or 'no version'} {count:,}" for version, count in sorted(counts.items())) or "none"


def _some(users: Sequence[str]) -> str:
    more = f" and {len(users) - 3:,} more" if len(users) > 3 else ""
    return ", ".join(users[:3]) + more
