"""The canary that every benchmark runs: one rollout at 10 %, its identity in a header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from canary_middleware import Canary, by_header

from .traffic import USER_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping


def canary(guardrails: Mapping[str, Any] | None = None) -> Canary:
    """A new one, without a store. Any: limits as a plan file has them."""
    return Canary("checkout", key=[by_header(USER_HEADER)], weight=10, guardrails=guardrails or {}, environ={})
