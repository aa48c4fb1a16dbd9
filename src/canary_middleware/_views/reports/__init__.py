"""
Reports of a rollout: what each stage saw, what was decided and why, for a terminal, a machine, a ticket or a browser.
"""

from __future__ import annotations

from .data import report_of

__all__ = ["report_of"]
