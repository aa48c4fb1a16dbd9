"""``python -m canary_middleware.cli`` is ``canary``."""

from __future__ import annotations

from .app import main

main()
