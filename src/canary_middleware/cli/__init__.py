"""The command line: ``canary <verb> [rollout]``. It needs a store, and none of the app's code."""

from __future__ import annotations

from .app import main
from .session import Host

__all__ = ["Host", "main"]
