"""
``canary``: the group of all verbs.

Exit codes: 0 fine, 1 rolled back or locked, 2 wrong usage, 3 needs a human, 4 timeout, 5 store unreachable.
"""

from __future__ import annotations

import io
import sys
from typing import Any, Final

import click

from .._core.hints import nearest
from . import changes, human, views
from .checklist import check
from .completion import completion
from .replay import replay
from .run import run
from .simulate import simulation
from .smoke import test

_ALIASES: Final = {"abort": "rollback", "promote": "next"}


class _Verbs(click.Group):
    """Knows the verbs' other names, and suggests one for a mistyped one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:  # Any: click's own triple
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = nearest(args[0], [*self.list_commands(ctx), *_ALIASES])
            if near is None:
                raise
            raise click.UsageError(f"there is no verb {args[0]!r}: did you mean {near!r}?", ctx) from error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))

    def list_commands(self, ctx: click.Context) -> list[str]:
        # In the order of a rollout's life, which is how they were added; the alphabet would hide it.
        return list(self.commands)


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 rolled back or locked, 2 wrong usage, 3 needs a human, 4 timeout, "
    "5 store unreachable.",
)
@click.version_option(package_name="canary-middleware")
def main() -> None:
    """Steer rollouts: see where they stand, change their weight, roll them back."""
    # A terminal without UTF-8 shows a question mark for ✔; it does not end with a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


for _command in (*views.FIRST, *changes.ALL, *views.LATER, *human.ALL, run, check, test, simulation, completion):
    main.add_command(_command)
test.add_command(replay)
