"""The rollout that all the apps here run under, and what their versions say. Its weight comes from the environment."""

from __future__ import annotations

import json
from typing import Final

from canary_middleware import Canary, by_header

canary = Canary(
    "shop", weight=30, key=[by_header("x-user-id")], exclude=["GET /counts"], fallback="idempotent", cache_headers=False
)

CHUNK: Final = b"0123456789abcdef" * 4096
DOWNLOAD_CHUNKS: Final = 320  # 20 MiB


def counts() -> bytes:
    """What this process has counted."""
    return json.dumps(canary.metrics_summary()).encode()


class Broken(RuntimeError):
    """What the canary raises at ``/fail``."""
