"""
A rollout's traffic, counted: what every rule of the comparison looks at.

The same pieces become the judge's ticks, and arrays by second for the rules that numpy can run over a whole rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import TYPE_CHECKING

import numpy as np

from canary_middleware._core.evidence.tick import GROUPS, Group, Side, Tick
from canary_middleware._core.plan.durations import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .traffic import Counts, Numbers, Piece

STABLE, CANARY = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """
    Counts of each second of a rollout, by version: the second axis is stable, canary.

    Attributes:
        weights: share of the canary, by second.
        requests, failures: seconds × 2.
        durations: seconds × 2 × buckets.
    """

    weights: Numbers
    requests: Counts
    failures: Counts
    durations: Counts


def seen_of(pieces: Sequence[Piece]) -> Seen:
    """All of *pieces*, counted."""
    found = [_counted(piece) for piece in pieces]
    return Seen(
        weights=np.concatenate([piece.weights for piece in pieces]),
        requests=np.concatenate([requests for requests, _, _ in found]),
        failures=np.concatenate([failures for _, failures, _ in found]),
        durations=np.concatenate([durations for _, _, durations in found]),
    )


def _counted(piece: Piece) -> tuple[Counts, Counts, Counts]:
    seconds = len(piece.weights)
    side = _sides(piece)
    requests = np.bincount(side, minlength=2 * seconds).reshape(seconds, 2)
    failures = np.bincount(side[piece.failed], minlength=2 * seconds).reshape(seconds, 2)
    cells = np.bincount(side * BUCKETS + piece.bucket, minlength=2 * seconds * BUCKETS)
    # Half the width: the arrays of a long rollout are large.
    return requests, failures, cells.astype(np.int32).reshape(seconds, 2, BUCKETS)


def _sides(piece: Piece) -> Counts:
    return 2 * piece.second + piece.canary


def ticks_of(piece: Piece) -> Iterator[Tick]:
    """The same as the judge sees it, a tick for each second."""
    sides = 2 * len(piece.weights)
    side = _sides(piece)
    requests = np.bincount(side, minlength=sides).tolist()
    failures = np.bincount(side[piece.failed], minlength=sides).tolist()
    identities = np.bincount(side[piece.is_new], minlength=sides).tolist()
    durations = _durations(piece, side, sides)
    groups = _groups(piece, side, sides)
    built = [Side(requests[n], failures[n], 0, durations[n], groups[n], identities[n]) for n in range(sides)]
    for second, weight in enumerate(piece.weights.tolist()):
        stable, canary = built[2 * second : 2 * second + 2]
        yield Tick(float(piece.start_s + second), round(weight * 1_000_000), stable, canary)


def _durations(piece: Piece, side: Counts, sides: int) -> list[dict[int, int]]:
    cells = np.bincount(side * BUCKETS + piece.bucket, minlength=sides * BUCKETS)
    used, borders = _used(cells, sides, BUCKETS)
    keys, counts = (used % BUCKETS).tolist(), cells[used].tolist()
    return [dict(zip(keys[a:b], counts[a:b], strict=True)) for a, b in borders]


def _groups(piece: Piece, side: Counts, sides: int) -> list[dict[int, Group]]:
    cell = side * GROUPS + piece.group
    size = sides * GROUPS
    requests = np.bincount(cell, minlength=size)
    failures = np.bincount(cell[piece.failed], minlength=size)
    durations = np.bincount(cell, weights=piece.bucket, minlength=size).astype(np.int64)
    used, borders = _used(requests, sides, GROUPS)
    keys = (used % GROUPS).tolist()
    columns = (column[used].tolist() for column in (requests, failures, durations))
    groups = list(starmap(Group, zip(*columns, strict=True)))
    return [dict(zip(keys[a:b], groups[a:b], strict=True)) for a, b in borders]


def _used(cells: Counts, sides: int, width: int) -> tuple[Counts, list[tuple[int, int]]]:
    """Indices of the cells that are not empty, and where each side's begin and end among them."""
    used = np.flatnonzero(cells)
    edges = np.searchsorted(used, np.arange(sides + 1) * width).tolist()
    return used, list(pairwise(edges))
