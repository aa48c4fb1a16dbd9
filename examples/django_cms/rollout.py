"""What ``CANARY`` in the settings names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from canary_middleware import Canary

canary: Final = Canary.load(Path(__file__).with_name("canary.toml"))
