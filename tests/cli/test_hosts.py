"""The same verbs as ``manage.py canary`` and ``flask canary``, on the store of the app's own Canary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from flask import Flask

from canary_middleware import Canary
from canary_middleware.flask import init_app
from tests.support.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Terminal

SETTINGS = """
from canary_middleware import Canary
SECRET_KEY = "x"
INSTALLED_APPS = ["canary_middleware"]
CANARY = {canary}
"""
MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


def django(folder: Path, *words: str, canary: str) -> subprocess.CompletedProcess[str]:
    (folder / "settings.py").write_text(SETTINGS.format(canary=canary))
    (folder / "manage.py").write_text(MANAGE)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("CANARY_", "DJANGO_"))}
    return subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=folder,
        env=env | {"PYTHONPATH": f"{ROOT / 'src'}", "CANARY_ACTOR": "ada"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_manage_py_knows_the_store_of_the_settings(terminal: Terminal, tmp_path: Path, url: str) -> None:
    canary = f"Canary('checkout', stages=[10], store={url!r})"

    moved = django(tmp_path, "canary", "set", "5", "--json", "--settings", "settings", canary=canary)
    stopped = django(tmp_path, "canary", "rollback", "--settings=settings", canary=canary)
    status = django(tmp_path, "canary", "status", canary=canary)

    assert json.loads(moved.stdout)["weight"] == 5, moved.stderr
    assert (stopped.returncode, status.returncode) == (0, 1), stopped.stderr
    assert [event.actor for event in terminal.store.history()] == ["ada", "ada", "service"]
    assert "rolled back" in status.stdout


def test_manage_py_lists_the_verbs_and_hands_on_mistakes(tmp_path: Path, url: str) -> None:
    canary = f"Canary('checkout', store={url!r})"

    helped = django(tmp_path, "canary", "--help", canary=canary)
    mistyped = django(tmp_path, "canary", "statsu", canary=canary)
    broken = django(tmp_path, "canary", "status", canary="'settings.nothing'")
    stored_nowhere = django(tmp_path, "canary", "status", canary="Canary('checkout')")

    assert "manage.py canary [OPTIONS]" in helped.stdout
    assert "rollback" in helped.stdout
    assert mistyped.returncode == 2
    assert "did you mean 'status'" in mistyped.stderr
    assert "CANARY = 'settings.nothing' cannot be imported" in broken.stderr
    assert "which store?" in stored_nowhere.stderr


def test_a_program_may_call_it(terminal: Terminal, tmp_path: Path, url: str) -> None:
    (tmp_path / "roll.py").write_text(
        "import django; django.setup()\n"
        "from django.core.management import call_command\n"
        "call_command('canary', 'set', '7', '--json')\n"
    )
    django(tmp_path, "version", canary=f"Canary('checkout', store={url!r})")

    done = subprocess.run(
        [sys.executable, "roll.py"],
        cwd=tmp_path,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert json.loads(done.stdout)["weight"] == 7, done.stderr


@pytest.fixture
def app(url: str) -> Iterator[Flask]:
    app, canary = Flask(__name__), Canary("checkout", stages=[10], store=url, environ={})
    init_app(app, canary)
    yield app
    canary.close()


def test_flask_knows_the_store_of_its_canary(terminal: Terminal, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_ACTOR", "ada")
    runner = app.test_cli_runner()

    moved = runner.invoke(args=["canary", "set", "5", "--json", "--reason", "first step"])
    helped = runner.invoke(args=["canary", "--help"])
    wrong = runner.invoke(args=["canary", "set", "-5"])

    assert json.loads(moved.stdout)["weight"] == 5, moved.output
    assert "Usage: flask canary" in helped.stdout
    assert "rollback" in helped.stdout
    assert wrong.exit_code == 2
    assert terminal.control.rollout("checkout").weight_ppm == 50_000
