"""
Run two versions of an API in one process, and move users from one to the other by evidence.

This module imports no framework, no store backend and no telemetry; each has a module of its own name.
"""

from __future__ import annotations

from ._core.assignment.identity import (
    anonymous,
    by_callable,
    by_client,
    by_cookie,
    by_header,
    by_json,
    by_path,
    by_query,
    by_session,
    by_user,
)
from ._core.lifecycle.rollout import Assignment
from ._core.plan.schema import Stage
from ._serving.dispatch import current, handlers
from .canary import Canary
from .stores import open_store

__version__ = "0.1.0"

__all__ = [
    "Assignment",
    "Canary",
    "Stage",
    "anonymous",
    "by_callable",
    "by_client",
    "by_cookie",
    "by_header",
    "by_json",
    "by_path",
    "by_query",
    "by_session",
    "by_user",
    "current",
    "handlers",
    "open_store",
]
