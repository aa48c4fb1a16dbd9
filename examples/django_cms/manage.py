"""
Django's management: ``python examples/django_cms/manage.py migrate`` and then ``… seed``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    # Started by its path, Python looks for modules beside this file; the example is imported from the checkout.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_cms.settings")
    execute_from_command_line(sys.argv)
