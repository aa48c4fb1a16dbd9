"""One simulated rollout, judged by every rule; and many of them, on all processors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final
from zlib import crc32

from . import rules
from .ours import default_judge, promoted, rolled_back
from .seen import CANARY, seen_of
from .traffic import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.pool import Pool

    from .cases import Case
    from .ours import Judging
    from .seen import Seen

OURS: Final = "ours"
PIECE_S: Final = 100
_CHUNK: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """
    What one rule did in one rollout.

    Attributes:
        requests: canary requests from the onset until it rolled back; infinite where it never did.
        is_early: whether it rolled back before the onset.
    """

    requests: float
    is_early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What each rule did in one rollout: its alarm, and whether it promoted (of those rules that do)."""

    alarms: Mapping[str, Alarm]
    promoted: Mapping[str, bool]


def play(case: Case, seed: Sequence[int], judge: Callable[[], Judging] = default_judge) -> Outcome:
    """
    One rollout.

    Args:
        seed: of its random numbers.
        judge: makes the judge that is ours.
    """
    schedule = case.schedule()
    stream = Stream(case.traffic, [*seed, 0])
    pieces = [stream.draw(schedule[start : start + PIECE_S]) for start in range(0, len(schedule), PIECE_S)]
    seen = seen_of(pieces)
    onset_s = case.traffic.onset_s
    condemned = rolled_back(judge(), pieces)
    found = {OURS: [] if condemned is None else [condemned]}
    found |= {name: rule(seen).tolist() for name, rule in rules.RULES.items()}
    promotions: dict[str, bool] = {}
    if case.promotes:
        promotions = {
            OURS: promoted(judge(), Stream(case.traffic, [*seed, 1])) is not None,
            "naive": rules.naive_promotes(seen),
            "Flagger-like": rules.flagger_promotes(seen),
        }
    return Outcome(alarms={name: _alarm(seen, at, onset_s) for name, at in found.items()}, promoted=promotions)


def _alarm(seen: Seen, seconds: Sequence[int], onset_s: float) -> Alarm:
    is_early = bool(seconds) and seconds[0] < onset_s
    after = [second for second in seconds if second >= onset_s]
    if not after:
        return Alarm(requests=inf, is_early=is_early)
    requests = int(seen.requests[int(onset_s) : after[0] + 1, CANARY].sum())
    return Alarm(requests=requests, is_early=is_early)


def play_all(case: Case, rollouts: int, seed: int, pool: Pool | None = None) -> Iterator[Outcome]:
    """
    *rollouts* of them. The same seed gives the same ones, whatever the number of processes.

    Args:
        pool: of processes; None stays in this one.
    """
    name = crc32(case.name.encode())
    seeds = [(seed, name, number) for number in range(rollouts)]
    one = partial(play, case)
    return map(one, seeds) if pool is None else pool.imap(one, seeds, chunksize=_CHUNK)
