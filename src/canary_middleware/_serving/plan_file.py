"""
Plans on disk: ``.toml``, ``.json``, or the ``[tool.canary]`` table of a ``pyproject.toml``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    import os


def read_plan(path: str | os.PathLike[str]) -> dict[str, Any]:  # Any: a plan's values are checked one by one
    """
    The mapping that a plan file holds, unchecked.

    Raises:
        ConfigError: it cannot be read, or is no TOML or JSON; says where.
    """
    file = Path(path)
    readers = {".toml": _toml, ".json": _json}
    reader = readers.get(file.suffix)
    if reader is None:
        raise ConfigError(f"plan {str(file)!r}: must end in .toml or .json")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"plan {str(file)!r} is not UTF-8 ({error}): save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"plan {str(file)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    mapping = reader(file, text)
    if file.name != "pyproject.toml":
        return mapping
    tool = mapping.get("tool")
    table = tool.get("canary") if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        raise ConfigError(f"plan {str(file)!r} has no [tool.canary] table: add one, or name another file")
    return table


def _toml(file: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, as is a number of 5,000 digits
        raise ConfigError(f"plan {str(file)!r} is no TOML: {error}") from error


def _json(file: Path, text: str) -> dict[str, Any]:
    import json

    try:
        mapping = json.loads(text, object_pairs_hook=once_each)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"plan {str(file)!r} is no JSON: {error}") from error
    if not isinstance(mapping, dict):
        raise ConfigError(f"plan {str(file)!r} holds a {type(mapping).__name__}: must be an object with rollout")
    return mapping


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: as in read_plan
    """
    The object of those *pairs*, for ``json.loads``: JSON alone would keep the last of two values and say nothing.

    Raises:
        ValueError: a key stands there twice; says which.
    """
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"key {key!r} stands twice in one object, as {table[key]!r} and as {value!r}: keep one")
        table[key] = value
    return table
