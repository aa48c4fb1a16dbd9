"""
For ASGI servers.

    uvicorn examples.django_cms.asgi:application
"""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

from canary_middleware.telemetry import configure_telemetry

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.django_cms.settings")

# Sends nothing unless OTEL_EXPORTER_OTLP_ENDPOINT or its like is set.
configure_telemetry()

application = get_asgi_application()
