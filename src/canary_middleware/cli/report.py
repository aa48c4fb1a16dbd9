"""
``canary report``: what people report of a rollout, and the report of its stages.
"""

from __future__ import annotations

from typing import Final

import click

STAGES: Final = "stages"
"""The command behind ``canary report`` alone and ``canary report checkout``, where there is one."""


class _Reports(click.Group):
    """``canary report`` and ``canary report checkout`` are the report of the stages; other words report something."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_other = bool(args) and (args[0] in self.commands or args[0] in ("-h", "--help"))
        if STAGES in self.commands and not is_other:
            args = [STAGES, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Reports)
def report() -> None:
    """Report a bug or feedback."""
