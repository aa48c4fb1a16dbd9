"""
Where the demo is shown: a terminal with colours and a moving bar, or plain lines where there is none.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import RenderableType

    from .traffic import Answer

WIDTH: Final = 100
INDENT: Final = 2
COLOURS: Final = {"v1": "cyan", "v2": "yellow"}


def open_console() -> Console:
    """The console of standard output: at most WIDTH columns, and exactly so many where it is no terminal."""
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


class Screen:
    """Prints with one indent, and shows traffic while it flows."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def heading(self, number: int, text: str) -> None:
        self.console.print()
        self.console.print(Rule(f"[bold]{number}  {text}[/]", align="left", style="dim"))
        self.console.print()

    def gap(self) -> None:
        self.console.print()

    def show(self, thing: RenderableType) -> None:
        self.console.print(Padding(thing, (0, 0, 0, INDENT + 1), expand=False))

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Something that takes a second: a spinner, or one line."""
        if not self.console.is_terminal:
            self.show(text)
            yield
            return
        with self.console.status(text, spinner="dots"):
            yield

    @contextmanager
    def counting(self, total: int) -> Iterator[Callable[[Sequence[Answer]], None]]:
        """A function to call with the answers so far: it moves a bar, or prints a line at each third."""
        if not self.console.is_terminal:
            yield _lines(self, total)
            return
        bar = Progress(
            TextColumn(" " * INDENT),
            SpinnerColumn("dots", finished_text="[green]✓[/]"),
            BarColumn(32, complete_style="yellow", finished_style="green"),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TextColumn("{task.description}"),
            console=self.console,
            refresh_per_second=12,
        )
        with bar:
            task = bar.add_task("", total=total)
            yield lambda answers: bar.update(task, completed=len(answers), description=_tally(answers))


def _lines(screen: Screen, total: int) -> Callable[[Sequence[Answer]], None]:
    shown = 0

    def watch(answers: Sequence[Answer]) -> None:
        nonlocal shown
        if len(answers) * 3 // total > shown:
            shown = len(answers) * 3 // total
            screen.show(f"{len(answers):>5,}/{total:,}  {_tally(answers)}")

    return watch


def _tally(answers: Sequence[Answer]) -> str:
    stable, canary, failed = 0, 0, 0
    for answer in list(answers):
        stable += answer.version == "v1"
        canary += answer.version == "v2"
        failed += answer.is_failed
    colour = "red" if failed else "dim"
    return f"[cyan]v1[/] {stable:,}  [yellow]v2[/] {canary:,}  [{colour}]failed {failed:,}[/]"
