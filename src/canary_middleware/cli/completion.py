"""Shell completion: the script that a shell asks us with, and the rollouts' names."""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import get_completion_class

from ..errors import CanaryError
from .session import Session

_SHELLS: Final = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print the completion script: `eval "$(canary completion bash)"` in your shell's profile."""
    kind = get_completion_class(shell or os.path.basename(os.environ.get("SHELL", "bash")))  # noqa: PTH119 - text only
    if kind is None:
        raise click.UsageError(f"name your shell: {', '.join(_SHELLS)}")
    click.echo(kind(context.find_root().command, {}, "canary", "_CANARY_COMPLETE").source())


def rollout_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The rollouts of the store that the line so far names; none where it cannot be asked."""
    session = Session(store=context.params.get("store"), plan=context.params.get("plan"))
    try:
        return [name for name in session.control.names() if name.startswith(incomplete)]
    except CanaryError:
        return []
    finally:
        session.close()
