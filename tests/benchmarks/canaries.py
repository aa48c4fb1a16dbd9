"""The canary that every benchmark runs: one rollout at 10 %, its identity in a header."""

from __future__ import annotations

from canary_middleware import Canary, by_header

from .traffic import USER_HEADER


def canary() -> Canary:
    """A new one, without a store."""
    return Canary("checkout", key=[by_header(USER_HEADER)], weight=10, environ={})
