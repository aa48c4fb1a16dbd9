"""``manage.py canary <verb>``: the command line, on the store and the plan of the app's own Canary."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...cli import Host, main
from ...django import get_canary
from ...errors import ConfigError

# manage.py has obeyed these before it comes here; the value of each is the next word, or behind a "=".
_DJANGOS = ("--settings", "--pythonpath")


class Command(BaseCommand):
    """Steer rollouts. Every verb of ``canary``, with its options and exit codes."""

    help = "Steer rollouts: `manage.py canary --help` lists the verbs."
    # A project whose checks fail must still be able to roll back.
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """All words behind ``canary`` are the command line's own, ``--help`` and ``--version`` too."""
        _run(f"{argv[0]} {argv[1]}", _without_djangos(argv[2:]))

    def add_arguments(self, parser: CommandParser) -> None:
        """For ``call_command("canary", "set", "10")``."""
        parser.add_argument("words", nargs=argparse.REMAINDER)

    def handle(self, *_: object, words: list[str], **options: Any) -> None:  # Any: Django's own options
        """Run the verb; like the command line it ends with SystemExit where the exit code is not 0."""
        _run("manage.py canary", words)


def _run(program: str, words: list[str]) -> None:
    try:
        canary = get_canary()
    except (ImproperlyConfigured, ConfigError) as error:
        raise CommandError(str(error)) from error
    main.main(args=words, prog_name=program, obj=Host(canary.store, canary.plan))


def _without_djangos(words: list[str]) -> list[str]:
    rest, skip = [], False
    for word in words:
        name, _, value = word.partition("=")
        if not skip and name not in _DJANGOS:
            rest.append(word)
        skip = not skip and name in _DJANGOS and not value
    return rest
