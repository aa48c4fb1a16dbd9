"""FastAPI and Starlette: the ASGI door, and the Assignment as a dependency."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from ._core.lifecycle.rollout import Assignment as _Assignment
from ._serving.dispatch import current, handlers
from .asgi import CanaryMiddleware, apps

__all__ = ["Assigned", "CanaryMiddleware", "apps", "handlers"]


async def _assigned() -> _Assignment:
    return current()


Assigned = Annotated[_Assignment, Depends(_assigned)]
"""Annotate a parameter with it to be handed the request's Assignment."""
