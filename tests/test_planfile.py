"""Plans on disk: each format gives the same mapping, and every way in which a file can be wrong is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from canary_middleware import Canary
from canary_middleware._serving.plan_file import read_plan
from canary_middleware.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TOML = """
schema = 1
[rollout.api]
endpoints = ["GET /posts/{id}"]
weight = 12.5
"""
MAPPING = {"schema": 1, "rollout": {"api": {"endpoints": ["GET /posts/{id}"], "weight": 12.5}}}


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path | str) -> str:
    with pytest.raises(ConfigError) as error:
        read_plan(path)
    assert repr(str(path)) in str(error.value)
    return str(error.value)


PYPROJECT = """
[tool.other]
x = 1
[tool.canary]
schema = 1
[tool.canary.rollout.api]
endpoints = ["GET /posts/{id}"]
weight = 12.5
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [("canary.toml", TOML), ("canary.json", json.dumps(MAPPING)), ("pyproject.toml", PYPROJECT)],
)
def test_the_three_kinds_of_file_hold_the_same_plan(tmp_path: Path, name: str, content: str) -> None:
    path = written(tmp_path, name, content)

    assert read_plan(path) == read_plan(str(path)) == MAPPING
    assert Canary.load(path, environ={}).rollout("api").weight_ppm == 125_000


def test_names_beyond_ascii_are_read_whatever_the_locale(tmp_path: Path) -> None:
    path = written(tmp_path, "plán.json", json.dumps({"rollout": {"zahlung-für-ö": {}}}, ensure_ascii=False))

    assert read_plan(path) == {"rollout": {"zahlung-für-ö": {}}}


@pytest.mark.parametrize("name", ["canary.yaml", "canary", "canary.TOML", ".toml"])
def test_another_kind_of_file_is_refused_before_it_is_opened(tmp_path: Path, name: str) -> None:
    assert "must end in .toml or .json" in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.toml", "rollout = [", "is no TOML"),
        ("a.toml", "a = 1\na = 2\n", "(at line 2"),
        ("a.toml", "a = " + "[" * 100_000, "is no TOML"),
        ("a.toml", "a = " + "1" * 5_000, "is no TOML"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "", "line 1 column 1"),
        ("a.json", "[" * 200_000, "is no JSON"),
        ("a.json", "1" * 5_000, "is no JSON"),
        (
            "a.json",
            '{"rollout": {"api": {"weight": 5, "weight": 50}}}',
            "'weight' stands twice in one object, as 5 and",
        ),
        ("a.json", "[]", "holds a list: must be an object with rollout"),
        ("a.json", "null", "holds a NoneType: must be an object with rollout"),
        ("a.toml", b"name = '\xff'", "save it as UTF-8"),
        ("a.json", b'{"\xe9": 1}', "save it as UTF-8"),
        ("pyproject.toml", "[project]\nname = 'x'\n", "has no [tool.canary] table: add one, or name another file"),
        ("pyproject.toml", "tool = 1\n", "has no [tool.canary] table"),
        ("pyproject.toml", "[tool]\ncanary = true\n", "has no [tool.canary] table"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert said in refused(written(tmp_path, name, content))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()

    assert "cannot be read: No such file or directory" in refused(tmp_path / "absent.toml")
    assert "cannot be read: Is a directory" in refused(tmp_path / "folder.toml")
    assert "cannot be read: embedded null byte" in refused("a\0b.toml")


def test_the_original_error_is_kept_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_plan(tmp_path / "absent.toml")

    assert isinstance(error.value.__cause__, FileNotFoundError)
