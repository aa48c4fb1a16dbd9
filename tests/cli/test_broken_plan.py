"""A plan file that cannot be read keeps nobody from the brakes."""

from __future__ import annotations

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
    assert result.exit_code in (0, 1)
    phases = {"rollback": "rolled_back", "emergency": "locked", "status": "progressing"}
    assert terminal.control.rollout("checkout").phase == phases[verb[0]]


def test_a_broken_plan_without_a_store_says_how_to_act_all_the_same(terminal: Terminal, here: Path) -> None:
    (here / "canary.toml").write_text("[rollout.checkout\n")

    result = terminal.run("rollback", CANARY_STORE="")

    assert result.exit_code == 2
    assert "--store URL" in result.output


@pytest.mark.parametrize(
    ("text", "store"),
    [
        ('schema = 1\nstore = "redis://a/0"  # here\n[x', "redis://a/0"),
        ("store='sqlite:///a.db'\n=", "sqlite:///a.db"),
        ('{"schema": 1,\n "store": "redis://b/0",,', "redis://b/0"),
        ("[rollout.x]\nrestore = 'no'", None),
    ],
)
def test_the_address_is_found_in_what_else_cannot_be_read(here: Path, text: str, store: str | None) -> None:
    (here / "plan").write_text(text)

    assert store_in(here / "plan") == store


def test_no_file_has_no_address(here: Path) -> None:
    assert store_in(here / "none") is None
