"""``python -m tests.benchmarks.judge``: simulate, print the table, and never fail because of a figure."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .cases import CASES, LINES
from .page import page
from .play import OURS, play_all
from .table import figure, is_met, markdown, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cases import Line
    from .play import Outcome

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "judge-figures.md"
SEED: Final = 1
ROLLOUTS: Final = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate what the command line asks for."""
    options = _options(arguments)
    lines = [line for line in LINES if _is_chosen(line, options.rows)]
    began_s = time.monotonic()
    outcomes = _simulated(lines, options)
    rows = [row(line, outcomes[line.case]) for line in lines]
    print("\n" + markdown(rows))
    met = _met(lines, outcomes)
    minutes = (time.monotonic() - began_s) / 60
    print(f"\n{met.count(True)} of {len(met)} figures met; {options.rollouts} rollouts each, {minutes:.1f} min")
    if options.write is not None:
        missed = [line for line, is_good in zip(_aimed(lines), met, strict=True) if not is_good]
        options.write.write_text(page(rows, missed, rollouts=options.rollouts, seed=options.seed), encoding="utf-8")


def _simulated(lines: Sequence[Line], options: argparse.Namespace) -> dict[str, list[Outcome]]:
    names = sorted({line.case for line in lines}, key=list(CASES).index)
    found: dict[str, list[Outcome]] = {}
    with ExitStack() as stack:
        # Spawned: what the parent has loaded and started must not be in the children.
        context = multiprocessing.get_context("spawn")
        pool = None if options.jobs == 1 else stack.enter_context(context.Pool(options.jobs))
        for name in names:
            found[name] = []
            for outcome in play_all(CASES[name], options.rollouts, options.seed, pool):
                found[name].append(outcome)
                _tell(f"{name}: {len(found[name])} of {options.rollouts} (case {len(found)} of {len(names)})")
            _tell("")
            _note([line for line in lines if line.case == name], found[name])
    return found


def _note(lines: Sequence[Line], outcomes: Sequence[Outcome]) -> None:
    """What is known already: a long run that is interrupted was not for nothing."""
    for line in lines:
        title, own, *_ = row(line, outcomes)
        print(f"{title}: {own}", file=sys.stderr, flush=True)


def _aimed(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.target is not None]


def _met(lines: Sequence[Line], outcomes: dict[str, list[Outcome]]) -> list[bool]:
    found = ((line, figure(line, OURS, outcomes[line.case])) for line in _aimed(lines))
    return [bool(own is not None and is_met(line, own)) for line, own in found]


def _is_chosen(line: Line, rows: Sequence[str]) -> bool:
    text = f"{line.case} {line.title} {line.measure}".casefold()
    return not rows or any(part.casefold() in text for part in rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.judge", description=__doc__)
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS, metavar="N", help="per line (default %(default)s)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="TEXT", help="only lines that have one of these")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="(default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--write", nargs="?", type=Path, const=PAGE, metavar="FILE", help=f"write {PAGE.name}, too")
    options = parser.parse_args(arguments)
    if options.rollouts < 1 or options.jobs < 1:
        parser.error("--rollouts and --jobs must be 1 or more")
    if options.rows and options.write == PAGE:
        parser.error("the page holds every line: leave out --rows, or name another file")
    if not any(_is_chosen(line, options.rows) for line in LINES):
        parser.error(f"no line has {' or '.join(options.rows)}")
    return options


def _tell(text: str) -> None:
    """Where we are, on a terminal's last line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
