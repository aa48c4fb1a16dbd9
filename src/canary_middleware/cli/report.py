"""
``canary report``: what people report of a rollout, and the report of its stages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .._views.reports import report_of
from .._views.reports.page import page
from .._views.reports.screen import screen
from .._views.reports.words import markdown
from ..errors import ConfigError
from .completion import rollout_names
from .session import FINE, shown, verb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .session import Session

STAGES: Final = "stages"
"""The command behind ``canary report`` alone and ``canary report checkout``."""


class _Reports(click.Group):
    """``canary report`` and ``canary report checkout`` are the report of the stages; other words report something."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_other = bool(args) and (args[0] in self.commands or args[0] in ("-h", "--help"))
        if not is_other:
            args = [STAGES, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Reports)
def report() -> None:
    """
    What each stage saw, what was decided and why; or report a bug or feedback.

    `canary report checkout --format html --output report.html` makes a page that needs nothing else.
    """


_FORMS: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "json": lambda found: json.dumps(found, indent=2) + "\n",
    "markdown": markdown,
    "html": page,
}


@report.command(STAGES, hidden=True)
@click.argument("rollout", required=False, shell_complete=rollout_names)
@click.option("--stage", type=click.IntRange(1), help="Only that one; 1 is the first.")
@click.option("--format", "form", type=click.Choice(["text", *_FORMS]), default="text", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False), metavar="FILE", help="Write it there.")
@verb
def stages(session: Session, rollout: str | None, stage: int | None, form: str, output: str | None) -> None:
    """What each stage saw, what was decided and why."""
    found = report_of(session.control, session.rollout(rollout), stage)
    if session.as_json:
        form = "json"
    if output is not None and form == "text":
        form = {".html": "html", ".json": "json", ".md": "markdown"}.get(Path(output).suffix, "markdown")
    if form == "text":
        session.console.print(screen(found, shown))
    elif output is None:
        click.echo(_FORMS[form](found), nl=False)
    else:
        _write(Path(output), _FORMS[form](found))
        session.say("SUCCESS", f"{form} report of {found['rollout']} in {output}")
    raise SystemExit(FINE)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"--output {path}: {error.strerror}: name a file that can be written") from error
