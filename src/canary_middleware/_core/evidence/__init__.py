"""
The judge: whether what was seen of a canary is reason to roll it back, to promote it, or neither.

Pure and deterministic: fed with ticks, asked for a finding, its state is plain data.
"""

from __future__ import annotations

from .judge import ALPHA, Judge, Settings, settings_of
from .tick import Group, Side, Tick

__all__ = ["ALPHA", "Group", "Judge", "Settings", "Side", "Tick", "settings_of"]
