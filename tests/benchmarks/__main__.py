"""``python -m tests.benchmarks``: measure, report, and never fail because of a figure."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import imports
from .effort import EFFORTS
from .figures import FIGURES
from .report import as_json, show
from .result import Result, result
from .sink import sink
from .worker import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .figures import Figure

# These look at one process by themselves, or at many.
_ONCE = frozenset({"memory", "imports"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = _options(arguments)
    results = []
    with sink() as collector:
        for figure in _chosen(options.only):
            _tell(f"measuring {figure.name} …")
            results.append(measured(figure, options.effort, collector))
    _tell("")
    show(results)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(results), indent=2, ensure_ascii=False) + "\n")
    if options.verbose:
        print("\nThe slowest imports, µs each without what they import themselves:")
        for name, own_us in imports.slowest():
            print(f"{own_us:>8}  {name}")


def measured(figure: Figure, effort: str, collector: str) -> Result:
    """*figure*, over as many processes as *effort* says; a failure is part of the report."""
    once = figure.subject.partition(":")[0] in _ONCE
    try:
        found = [run(figure, effort, collector) for _ in range(1 if once else EFFORTS[effort].processes)]
    except Exception as error:
        return Result(figure=figure, problem=str(error))
    return result(figure, found)


def _chosen(only: Sequence[str]) -> list[Figure]:
    return [figure for figure in FIGURES if not only or figure.name in only]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [figure.name for figure in FIGURES]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--verbose", action="store_true", help="say which modules take long to import")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--quick", dest="effort", action="store_const", const="quick", default="full", help="half a minute"
    )
    pace.add_argument("--proof", dest="effort", action="store_const", const="proof", help="only prove that it runs")
    return parser.parse_args(arguments)


def _tell(text: str) -> None:
    """Where we are, on a terminal's last line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
