"""A store on disk with one rollout, workers that say what they serve, and the command line over both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from canary_middleware import open_store
from canary_middleware._core.lifecycle.records import Worker
from canary_middleware._core.lifecycle.rollout import Rollout
from canary_middleware._core.plan.schema import parse
from canary_middleware.cli import main
from canary_middleware.stores.changes import Control

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from click.testing import Result

    from canary_middleware._core.ports import Store

STAGES = [10, {"weight": 50, "approve": True}, 100]


@dataclass
class Terminal:
    """Types commands; the store is named by the environment."""

    url: str
    store: Store

    def __post_init__(self) -> None:
        self.control = Control(self.store)

    def run(self, *words: str, answer: str | None = None, **environment: str) -> Result:
        env = {"CANARY_STORE": self.url, "CANARY_ACTOR": "ada", "COLUMNS": "120", **environment}
        return CliRunner().invoke(main, list(words), input=answer, env=env, prog_name="canary")

    def ok(self, *words: str, **environment: str) -> str:
        """What the command printed; it must end with 0."""
        result = self.run(*words, **environment)
        assert result.exit_code == 0, result.output
        return result.output

    def json(self, *words: str, code: int = 0) -> Any:
        result = self.run(*words, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def declare(self, name: str = "checkout", **fields: Any) -> None:
        plan = parse({"rollout": {name: {"stages": STAGES, **fields}}}).rollouts[0]
        self.control.register(Rollout(plan=plan), actor="service", reason="first seen")

    def beat(self, worker_id: str = "host:1:ab", *, revision: int = 1_000_000, **further: Any) -> None:
        """A worker says that it serves *revision* of every rollout; by default one that no change will pass."""
        revisions: Mapping[str, int] = dict.fromkeys(self.control.names(), revision)
        self.store.beat(Worker(id=worker_id, host="host", pid=1, seen_s=0.0, revisions=revisions, **further))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/canary.db"


@pytest.fixture
def terminal(url: str) -> Iterator[Terminal]:
    store = open_store(url)
    terminal = Terminal(url, store)
    terminal.declare()
    yield terminal
    store.close()
