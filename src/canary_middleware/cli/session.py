"""
What every verb shares: which store, who acts, how to answer, and what the exit code says.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import click
from rich.console import Console
from rich.text import Text

from .._core.plan.schema import parse
from .._serving.plan_file import read_plan
from ..errors import CanaryError, ConfigError, StaleRevision, StoreUnavailable, TransitionRefused
from ..stores import open_store
from ..stores.changes import Control

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.lifecycle.rollout import Rollout
    from .._core.plan.schema import Plan
    from .._core.ports import Store

FINE: Final = 0
STOPPED: Final = 1
"""The rollout is rolled back or locked."""
USAGE: Final = 2
NEEDS_A_HUMAN: Final = 3
TIMEOUT: Final = 4
STORE_AWAY: Final = 5

_PLANS: Final = ("canary.toml", "canary.json", "pyproject.toml")
"""Looked for in the current directory where neither a store nor a plan is named."""


_WIDE: Final = 1000


class Failed(Exception):
    """A verb ends with *code*; the message is for the person who typed it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Host(NamedTuple):
    """What a framework's own command line knows already: the app's store and plan."""

    store: Store | None = None
    plan: Plan | None = None


class Session:
    """
    One run of the command line.

    Args:
        store: URL, or None for CANARY_STORE, the host's or the plan's.
        plan: a plan file's path, or None for CANARY_PLAN or the one in the current directory.
        actor: who acts; None for CANARY_ACTOR or the user of the machine.
        host: what a framework's command line knows.
    """

    def __init__(
        self,
        *,
        store: str | None = None,
        plan: str | None = None,
        actor: str | None = None,
        reason: str = "",
        as_json: bool = False,
        host: Host | None = None,
    ) -> None:
        self._store = store
        self._plan = plan or os.environ.get("CANARY_PLAN")
        self._host = host or Host()
        self.reason = reason
        self.actor = actor or os.environ.get("CANARY_ACTOR") or _user()
        self.as_json = as_json
        self.plan_problem: str | None = None
        # rich turns colour off by itself where there is no terminal, and for NO_COLOR. There lines stay whole, too:
        # whoever reads a pipe or a file wants no cell folded to 80 columns.
        width = None if sys.stdout.isatty() else _WIDE
        # What people wrote is shown as they wrote it: brackets are no markup, and colons no emoji.
        self.console = Console(highlight=False, markup=False, emoji=False, width=width)

    @functools.cached_property
    def plan(self) -> Plan | None:
        """The plan that was named, or lies in the current directory; None where there is none."""
        if self._plan is not None:
            return parse(read_plan(self._plan))
        if self._host.plan is not None:
            return self._host.plan
        file = _plan_here()
        return None if file is None else parse(read_plan(file))

    @functools.cached_property
    def control(self) -> Control:
        """The rollouts of the store that was asked for."""
        place: str | Store | None = self._store or os.environ.get("CANARY_STORE") or self._host.store
        if place is None:
            place = self._planned_store()
        if place is None:
            raise ConfigError(
                "which store? Pass --store sqlite:///var/canary.db, set CANARY_STORE, or name a plan that holds "
                "`store` with --plan"
            )
        store = open_store(place)
        _require_reachable(store)
        return Control(store)

    def _planned_store(self) -> str | None:
        """
        The plan's store. A plan that is broken elsewhere must not keep anybody from a rollback: its address is enough.

        Raises:
            ConfigError: the plan is broken, and its store cannot be told.
        """
        try:
            return None if self.plan is None else self.plan.store
        except ConfigError as error:
            file = Path(self._plan) if self._plan is not None else _plan_here()
            place = None if file is None else store_in(file)
            if place is None:
                raise ConfigError(f"{error}. To act all the same, say where the rollouts live: --store URL") from error
            self.plan_problem = str(error)
            self.warn(f"{error}. Going by its store, {place}")
            return place

    def warn(self, message: str) -> None:
        """One line for a person beside the answer, JSON or not."""
        _beside("WARNING", message)

    def close(self) -> None:
        """Close the store, where this run has opened it; one that a host handed in is the host's."""
        if "control" in vars(self) and self.control.store is not self._host.store:
            self.control.store.close()

    def rollout(self, name: str | None) -> Rollout:
        """The rollout called *name*; where the store holds one, its name may be left out."""
        if name is not None:
            return self.control.rollout(name)
        names = self.control.names()
        if len(names) == 1:
            return self.control.rollout(names[0])
        if not names:
            raise ConfigError(f"{self.control.store.url} holds no rollout yet: start the service that declares one")
        raise ConfigError(f"which rollout? There are {', '.join(names)}: put its name behind the verb")

    def answer(self, data: Any, text: Callable[[], Any] | None = None) -> None:  # Any: plain data; a rich renderable
        """Print *data* as JSON where that was asked for, else what *text* makes."""
        if self.plan_problem is not None and isinstance(data, dict):
            data = {**data, "plan_problem": self.plan_problem}
        if self.as_json or text is None:
            click.echo(json.dumps(data, indent=2, default=str))
        else:
            self.console.print(text())

    def can_ask(self) -> bool:
        """Whether there is a person at a terminal to put a question to."""
        return not self.as_json and _is_terminal()

    def say(self, level: str, message: str) -> None:
        """One line for a person: INFO, SUCCESS, WARNING or ERROR; nothing where JSON was asked for."""
        if not self.as_json:
            self.console.print(line(level, message))


def _plan_here() -> Path | None:
    """The plan file of the current directory, if there is one."""
    for name in _PLANS:
        file = Path(name)
        if file.is_file() and (name != "pyproject.toml" or "[tool.canary" in file.read_text("utf-8", "replace")):
            return file
    return None


_TABLE: Final = re.compile(r"^\s*\[+\s*([^\]\n]*)", re.MULTILINE)
"""The beginning of a table, closed or not."""
_TOML_STORE: Final = re.compile(r"""^\s*store\s*=\s*["']([^"'\n]+)["']\s*(?:#.*)?$""", re.MULTILINE)
_JSON_STORE: Final = re.compile(r'"store"\s*:\s*"([^"\n]+)"')


def store_in(file: Path) -> str | None:
    """
    The store's address in a plan *file* that cannot be read as a whole; None where there is any doubt.

    A rollback that went to another store would be worse than one that asks: only the one ``store`` that stands before
    all tables is taken (in a pyproject.toml, the one of ``[tool.canary]``; in JSON, the only one).
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    if file.suffix == ".json":
        found = _JSON_STORE.findall(text)
    else:
        head = _head(text, "tool.canary" if file.name == "pyproject.toml" else None)
        is_quoted = any(quotes in head for quotes in ('"""', "'''"))
        found = [] if is_quoted else _TOML_STORE.findall(head)
    return found[0] if len(found) == 1 else None


def _head(text: str, table: str | None) -> str:
    """The lines of *table*, or those before the first one."""
    start = 0
    if table is not None:
        own = next((match for match in _TABLE.finditer(text) if match[1].strip() == table), None)
        if own is None:
            return ""
        start = own.end()
    after = _TABLE.search(text, start)
    return text[start:] if after is None else text[start : after.start()]


_STYLES: Final = {"INFO": "cyan", "SUCCESS": "green", "WARNING": "yellow", "ERROR": "bold red"}


def line(level: str, message: str) -> Text:
    """``SUCCESS  message``, the level in its colour."""
    return Text.assemble((f"{level:<8}", _STYLES[level]), " ", shown(message))


def _beside(level: str, message: str) -> None:
    """A line on standard error, where it spoils no answer that a program reads."""
    Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(line(level, message))


def shown(text: str) -> str:
    """*text* as a terminal may show it: an escape that somebody wrote into the store must not move the cursor."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return f"uid {os.getuid()}"


def _require_reachable(store: Store) -> None:
    """Opening a file that is not there would make an empty one, and a mistyped path look like a fresh store."""
    kind, _, path = store.url.partition(":///")
    if kind == "sqlite" and not Path(path).is_file():
        raise StoreUnavailable(
            f"{store.url}: there is no such file; start the service that declares the rollout, or mend the path "
            f"(relative ones begin in the current directory)"
        )
    if store.url.startswith("memory:"):
        raise ConfigError(
            "store = 'memory:' lives inside the service's process, where no command line reaches it: give the service "
            "a sqlite: or redis: store, or steer it by its admin API"
        )


def fail(message: str, code: int) -> NoReturn:
    """End with *code* and say why."""
    raise Failed(message, code)


_CODES: Final = ((StoreUnavailable, STORE_AWAY), (StaleRevision, NEEDS_A_HUMAN), (TransitionRefused, NEEDS_A_HUMAN))


def _code_of(error: CanaryError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), USAGE)


def _end(message: str, code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": message, "exit_code": code}, indent=2))
    else:
        _beside("ERROR", message)
    sys.exit(code)


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """The options that all verbs have, and their errors as exit codes."""

    @click.option("--store", metavar="URL", help="Where the rollouts live; else CANARY_STORE, else the plan's.")
    @click.option("--plan", metavar="FILE", help="A plan file; else CANARY_PLAN, else canary.toml here.")
    @click.option("--actor", metavar="WHO", help="Who acts, for the audit trail; else CANARY_ACTOR, else the user.")
    @click.option("--reason", default="", metavar="WHY", help="Why, for the audit trail.")
    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
    @functools.wraps(function)
    def run(
        *args: Any,  # Any: the verb's own arguments and options
        store: str | None,
        plan: str | None,
        actor: str | None,
        reason: str,
        as_json: bool,
        **kwargs: Any,
    ) -> None:
        host = click.get_current_context().find_object(Host)
        session = Session(store=store, plan=plan, actor=actor, reason=reason, as_json=as_json, host=host)
        try:
            function(session, *args, **kwargs)
        except Failed as error:
            _end(str(error), error.code, as_json=as_json)
        except CanaryError as error:
            _end(str(error), _code_of(error), as_json=as_json)
        finally:
            session.close()

    return run
