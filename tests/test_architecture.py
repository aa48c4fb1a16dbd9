"""Imports point inward only: the rules of the layout, checked on whatever modules are in the tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "canary_middleware"

ADAPTERS = {f"{PACKAGE}.{name}" for name in ("django", "flask", "fastapi")}
# What a decision must not touch: clocks are handed in, and nothing here waits, logs or draws lots.
FORBIDDEN_IN_CORE = {"asyncio", "logging", "random", "secrets", "socket", "subprocess", "threading", "time"}
FORBIDDEN_CALLS = {"open", "print", "input"}
ENVIRONMENT = {"environ", "environb", "getenv", "putenv"}
# Loaded by whoever needs them, never by `import canary_middleware`.
NOT_AT_IMPORT = {
    "django",
    "fastapi",
    "flask",
    "redis",
    "sqlite3",
    "starlette",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    f"{PACKAGE}.stores.memory",
    f"{PACKAGE}.stores.redis",
    f"{PACKAGE}.stores.sqlite",
    *ADAPTERS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module, absolute, and where the statement stands. *typing_only*: under ``if TYPE_CHECKING``."""

    module: str
    line: int
    typing_only: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, *, is_package: bool) -> list[Import]:
    """Every import of *source*, also inside functions; ``from x import y`` counts as x and as x.y."""
    package = module if is_package else module.rpartition(".")[0]
    tree = ast.parse(source)
    typing_only = {id(inner) for block in _typing_blocks(tree) for inner in ast.walk(block)}
    return [
        Import(module=name, line=node.lineno, typing_only=id(node) in typing_only)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _imported(node, package)
    ]


def _typing_blocks(tree: ast.AST) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from node.body


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    parents = package.split(".")
    base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
    origin = ".".join(filter(None, [base, node.module]))
    yield origin
    yield from (f"{origin}.{alias.name}" for alias in node.names)


def within(module: str, *roots: str) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def files(*, under: str = "") -> list[Path]:
    root = SRC / PACKAGE / under
    return sorted(root.rglob("*.py")) if root.is_dir() else []


def violations(paths: list[Path], forbidden: Callable[[str, Import], bool]) -> list[str]:
    """``file:line imports module`` for every import that *forbidden(importer, import)* objects to."""
    return [
        f"{path.relative_to(SRC)}:{one.line} imports {one.module}"
        for path in paths
        for one in imports_of(path.read_text(), module_name(path), is_package=path.name == "__init__.py")
        if forbidden(module_name(path), one)
    ]


def test_the_core_imports_the_standard_library_itself_and_errors_only() -> None:
    def foreign(importer: str, one: Import) -> bool:
        if within(one.module, PACKAGE):
            return not within(one.module, f"{PACKAGE}._core", f"{PACKAGE}.errors") and one.module != PACKAGE
        return one.module.partition(".")[0] not in sys.stdlib_module_names

    assert files(under="_core")
    assert violations(files(under="_core"), foreign) == []


def test_the_core_has_no_clock_thread_log_randomness_or_socket() -> None:
    def impure(importer: str, one: Import) -> bool:
        return within(one.module, *FORBIDDEN_IN_CORE)

    assert violations(files(under="_core"), impure) == []


def test_the_core_reads_no_environment_and_opens_no_file() -> None:
    found = [
        f"{path.relative_to(SRC)}:{node.lineno} {ast.unparse(node)}"
        for path in files(under="_core")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS)
    ]

    assert found == []


def test_only_telemetry_imports_opentelemetry() -> None:
    def telemetry_elsewhere(importer: str, one: Import) -> bool:
        return within(one.module, "opentelemetry") and not within(importer, f"{PACKAGE}.telemetry")

    assert violations(files(), telemetry_elsewhere) == []


def test_nothing_imports_an_adapter() -> None:
    def adapter(importer: str, one: Import) -> bool:
        # fastapi.py may stand on Starlette's part of it, an adapter package on its own modules.
        # So may a framework's commands.
        return within(one.module, *ADAPTERS) and not within(importer, *ADAPTERS, f"{PACKAGE}.management")

    assert violations(files(), adapter) == []


def test_adapters_import_neither_stores_nor_telemetry() -> None:
    doors = (*ADAPTERS, f"{PACKAGE}.wsgi", f"{PACKAGE}.asgi")

    def reaches_out(importer: str, one: Import) -> bool:
        return within(importer, *doors) and within(one.module, f"{PACKAGE}.stores", f"{PACKAGE}.telemetry")

    assert violations(files(), reaches_out) == []


def test_only_front_doors_import_the_admin_api_and_only_their_commands_the_command_line() -> None:
    doors = (f"{PACKAGE}.{name}" for name in ("wsgi", "asgi", "flask", "django", "admin"))
    allowed = {
        f"{PACKAGE}.admin": tuple(doors),
        f"{PACKAGE}.cli": (f"{PACKAGE}.cli", f"{PACKAGE}.flask", f"{PACKAGE}.management"),
    }

    def from_below(importer: str, one: Import) -> bool:
        return any(within(one.module, root) and not within(importer, *above) for root, above in allowed.items())

    assert violations(files(), from_below) == []


def test_the_command_line_and_the_admin_api_know_no_framework() -> None:
    def framework(importer: str, one: Import) -> bool:
        doors = (*ADAPTERS, f"{PACKAGE}.wsgi", f"{PACKAGE}.asgi", "django", "flask", "starlette", "fastapi")
        return (
            within(importer, f"{PACKAGE}.cli", f"{PACKAGE}.admin")
            and within(one.module, *doors)
            and not one.typing_only
        )

    assert violations(files(), framework) == []


ORDER = {
    "errors": 0,
    "_core": 1,
    "_troubles": 1,
    "stores": 2,
    "telemetry": 2,
    "_serving": 3,
    "_control": 3,
    "_views": 4,
    "_store_link": 5,
    "canary": 6,
    "": 6.5,
    "admin": 7,
    "asgi": 8,
    "wsgi": 8,
    "fastapi": 9,
    "flask": 9,
    "django": 9,
    "testing": 10,
    "cli": 10,
    "management": 11,
}
"""Rooms from the ground up: each may stand on those below it, and on none beside it."""

# The façade opens its side of a store, and Flask lists the command line among its own commands, when they are asked to.
OPENED_ON_DEMAND = {("flask", "cli")}
# Type annotations that name each other. Nothing may join them; what leaves is taken off.
KNOWN_CIRCLES = [
    {
        "_core.assignment.identity",
        "_core.assignment.override",
        "_core.assignment.policy",
        "_core.evidence.guardrail",
        "_core.exchange",
        "_core.headers",
        "_core.lifecycle.records",
        "_core.lifecycle.rollout",
        "_core.plan.changes",
        "_core.plan.schema",
        "_core.ports",
    },
    {"_core.evidence.judge", "_core.evidence.verdict"},
]


def room_of(module: str) -> str:
    name = module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]
    return name if name in ORDER else ""


def edges() -> dict[str, set[str]]:
    """Module → modules of ours that it imports in any way: at import, inside a function, for types only."""
    modules = {module_name(path) for path in files()}
    found: dict[str, set[str]] = {}
    for path in files():
        name = module_name(path)
        for one in imports_of(path.read_text(), name, is_package=path.name == "__init__.py"):
            if not within(one.module, PACKAGE):
                continue
            target = one.module if one.module in modules else one.module.rpartition(".")[0]
            if target in modules and not within(name, target):
                found.setdefault(name, set()).add(target)
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules each of which reaches every other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return seen

    reach = {module: reached(module) for module in graph}
    groups = [{other for other in reach[module] if module in reach.get(other, ())} for module in graph]
    return [group for n, group in enumerate(groups) if group and group not in groups[:n]]


def test_arrows_point_down() -> None:
    upward = [
        f"{name} imports {target}"
        for name, targets in edges().items()
        for target in targets
        if room_of(name) != room_of(target)
        and ORDER[room_of(target)] >= ORDER[room_of(name)]
        and (room_of(name), room_of(target)) not in OPENED_ON_DEMAND
    ]

    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = [{name.removeprefix(f"{PACKAGE}.") for name in group} for group in circles(edges())]

    assert [group for group in found if not any(group <= known for known in KNOWN_CIRCLES)] == []
    assert [known for known in KNOWN_CIRCLES if known not in found] == [], "cut: take it off the list"


def test_a_circle_of_three_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_at_most_twelve_modules_lie_at_the_root() -> None:
    assert len([path for path in files() if path.parent == SRC / PACKAGE]) <= 12


def test_nobody_below_the_facade_names_it() -> None:
    below = [f"{PACKAGE}.{name}" for name, height in ORDER.items() if name and height < ORDER["canary"]]

    def names_it(importer: str, one: Import) -> bool:
        return within(importer, *below) and within(one.module, f"{PACKAGE}.canary")

    assert violations(files(), names_it) == []


def test_frameworks_are_imported_by_their_own_adapter_only() -> None:
    owners = {
        "django": ("django", "management"),
        "flask": ("flask",),
        "fastapi": ("fastapi",),
        "starlette": ("fastapi",),
    }

    def framework(importer: str, one: Import) -> bool:
        root = one.module.partition(".")[0]
        allowed = [f"{PACKAGE}.{name}" for name in owners.get(root, ())]
        return root in owners and not one.typing_only and not within(importer, *allowed)

    assert violations(files(), framework) == []


@pytest.mark.parametrize("forbidden", sorted(NOT_AT_IMPORT))
def test_importing_the_package_loads_no_framework_store_or_sdk(forbidden: str, loaded_modules: frozenset[str]) -> None:
    assert [name for name in loaded_modules if within(name, forbidden)] == []


@pytest.fixture(scope="module")
def loaded_modules() -> frozenset[str]:
    """The modules that a fresh interpreter holds after ``import canary_middleware``."""
    code = f"""
import sys
sys.path.insert(0, {str(SRC)!r})
before = set(sys.modules)
import {PACKAGE}
print(*sorted(set(sys.modules) - before), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(done.stdout.split())


# The checker itself: a rule that sees nothing would hold for ever.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os.path", {"os.path"}),
        ("from ..errors import ConfigError", {f"{PACKAGE}.errors", f"{PACKAGE}.errors.ConfigError"}),
        ("from . import bucketing", {f"{PACKAGE}._core", f"{PACKAGE}._core.bucketing"}),
        ("from .. import stores", {PACKAGE, f"{PACKAGE}.stores"}),
        ("def f():\n    import threading", {"threading"}),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: set[str]) -> None:
    found = imports_of(source, f"{PACKAGE}._core.plan", is_package=False)

    assert {one.module for one in found} == expected


def test_an_import_for_types_only_is_told_apart() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flask\nelse:\n    import json\n"

    found = {one.module: one.typing_only for one in imports_of(source, f"{PACKAGE}.flask", is_package=False)}

    assert found["flask"]
    assert not found["json"]


def test_a_relative_import_in_a_package_starts_at_the_package_itself() -> None:
    (origin, name) = imports_of("from .memory import Store", f"{PACKAGE}.stores", is_package=True)

    assert (origin.module, name.module) == (f"{PACKAGE}.stores.memory", f"{PACKAGE}.stores.memory.Store")
