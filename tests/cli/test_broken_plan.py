"""A plan file that cannot be read keeps nobody from the brakes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from canary_middleware.cli.session import store_in

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Terminal


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


BROKEN = """schema = 1
store = "{url}"
[rollout.checkout]
stages = [10, 50
"""


@pytest.mark.parametrize("verb", [["rollback"], ["emergency", "on"], ["status"]])
def test_the_brakes_go_by_the_store_of_a_broken_plan(terminal: Terminal, here: Path, verb: list[str]) -> None:
    terminal.ok("start")
    (here / "canary.toml").write_text(BROKEN.format(url=terminal.url))

    result = terminal.run(*verb, CANARY_STORE="")

    assert "canary.toml" in result.output
    assert "is no TOML" in result.output
    phases = {"rollback": "rolled_back", "emergency": "locked", "status": "progressing"}
    assert result.exit_code == 0
    assert terminal.control.rollout("checkout").phase == phases[verb[0]]


def test_an_emergency_is_lifted_by_the_store_of_a_broken_plan(terminal: Terminal, here: Path) -> None:
    terminal.ok("emergency", "on")
    (here / "canary.toml").write_text(BROKEN.format(url=terminal.url))

    result = terminal.run("emergency", "off", CANARY_STORE="")

    assert result.exit_code == 0
    assert terminal.control.rollout("checkout").phase == "rolled_back"


def test_status_says_in_json_that_the_plan_is_broken(terminal: Terminal, here: Path) -> None:
    (here / "canary.toml").write_text(BROKEN.format(url=terminal.url))

    result = terminal.run("status", "--json", CANARY_STORE="")

    assert "is no TOML" in json.loads(result.stdout)["plan_problem"]


def test_a_broken_plan_without_a_store_says_how_to_act_all_the_same(terminal: Terminal, here: Path) -> None:
    (here / "canary.toml").write_text("[rollout.checkout\n")

    result = terminal.run("rollback", CANARY_STORE="")

    assert result.exit_code == 2
    assert "--store URL" in result.output


@pytest.mark.parametrize(
    ("name", "text", "store"),
    [
        ("canary.toml", 'schema = 1\nstore = "redis://a/0"  # here\n[x', "redis://a/0"),
        ("canary.toml", "store='sqlite:///a.db'\n=", "sqlite:///a.db"),
        ("canary.toml", "[rollout.x]\nstore = 'redis://another/0'", None),
        ("canary.toml", 'note = """\nstore = "redis://quoted/0"\n"""\nstore = "redis://a/0"\n=', None),
        ("canary.toml", "store = 'a'\nstore = 'b'", None),
        ("canary.toml", "restore = 'no'", None),
        ("canary.json", '{"schema": 1,\n "store": "redis://b/0",,', "redis://b/0"),
        ("canary.json", '{"store": "a", "rollout": {"store": "b"}', None),
        ("pyproject.toml", "[tool.x]\nstore = 'no'\n[tool.canary]\nstore = 'redis://c/0'\n[tool.y", "redis://c/0"),
        ("pyproject.toml", "store = 'no'\n[tool.x]\n=", None),
    ],
)
def test_the_address_is_found_in_what_else_cannot_be_read_unless_in_doubt(
    here: Path, name: str, text: str, store: str | None
) -> None:
    (here / name).write_text(text)

    assert store_in(here / name) == store


def test_no_file_has_no_address(here: Path) -> None:
    assert store_in(here / "none.toml") is None
