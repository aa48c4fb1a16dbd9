"""The document for programs says what the API does: paths, members and every status it answers with."""

from __future__ import annotations

from typing import Any

import pytest

from canary_middleware.admin import create_app
from canary_middleware.admin.api import LOOKS, VERBS
from tests.contract.test_admin import WRONG

from .conftest import TOKEN, ask, make


@pytest.fixture(scope="module")
def document() -> Any:
    return ask(create_app(make(), token=TOKEN), "GET", "/openapi.json")[1]


def operations(document: Any) -> dict[str, Any]:
    return {path: operation for path, methods in document["paths"].items() for operation in methods.values()}


def test_every_path_is_there_once(document: Any) -> None:
    found = operations(document)

    assert set(found) == {*LOOKS, *VERBS}
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    assert all(operation["summary"] for operation in found.values())


@pytest.mark.parametrize("case", WRONG)
def test_every_refusal_is_told_of(document: Any, case: str) -> None:
    path, _, status, _ = WRONG[case]
    found = operations(document)

    assert path not in found or str(status) in found[path]["responses"]


@pytest.mark.parametrize("path", VERBS)
def test_a_body_of_exactly_the_members_told_of_is_understood(document: Any, path: str) -> None:
    schema = operations(document)[path]["requestBody"]["content"]["application/json"]["schema"]
    examples = {
        "weight": 5,
        "to_previous": False,
        "state": "on",
        "severity": "minor",
        "text": "a typo",
        "rollout": "checkout",
        "reason": "a test",
        "revision": 0,
        "wait": 0,
    }
    app = create_app(make(weight=1), token=TOKEN)

    status, answer = ask(app, "POST", path, {name: examples[name] for name in schema["properties"]})
    needed, problem = ask(app, "POST", path, {})

    assert status in (200, 422), answer  # 422: understood, and not possible in this phase
    assert (needed == 400) is bool(schema["required"]), problem


def test_references_lead_somewhere(document: Any) -> None:
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.extend(value for name, value in node.items() if name == "$ref")
            for value in node.values():
                walk(value)

    walk(document)

    assert set(found) == {"#/components/schemas/Problem"}
    assert document["components"]["schemas"]["Problem"]
