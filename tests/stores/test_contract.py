"""One suite, every store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from canary_middleware.stores import open_store
from canary_middleware.stores.contract import StoreContract

if TYPE_CHECKING:
    from pathlib import Path

    from canary_middleware._core.ports import Store
    from tests.support.redis_server import RedisServer


class TestMemory(StoreContract):
    def open(self) -> Store:
        return open_store("memory:")


class TestSQLite(StoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = tmp_path

    def open(self) -> Store:
        return open_store(f"sqlite:///{self.place}/var/canary.db")


class TestRedis(StoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, redis_server: RedisServer) -> None:
        redis_server.command("FLUSHALL")
        self.place = redis_server

    def open(self) -> Store:
        return open_store(self.place.url)
