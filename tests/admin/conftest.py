"""The admin API mounted by hand, and somebody who may steer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from canary_middleware import Canary, by_header
from tests.contract.clients import wsgi_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "a-token-of-some-length"


def make(name: str = "checkout", **fields: Any) -> Canary:
    return Canary(name, key=[by_header("x-user-id")], stages=[10, 50, 100], **{"environ": {}, **fields})


def ask(app: Any, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and document of one request with the token."""
    given = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    given |= {name.replace("_", "-"): text for name, text in headers.items()}
    answer = wsgi_request(app, method, target, headers=given, body=b"" if body is None else json.dumps(body).encode())
    return answer.status, json.loads(answer.text) if answer.text else None


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Canary]:
    """A Canary on SQLite."""
    canary = make(store=f"sqlite:///{tmp_path}/canary.db")
    yield canary
    canary.close()
