"""Django's settings: what differs from ``startproject`` is marked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SECRET_KEY = os.environ.get("CMS_SECRET_KEY", "for development only")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["examples.django_cms.apps.CmsConfig"]
ROOT_URLCONF = "examples.django_cms.urls"
WSGI_APPLICATION = "examples.django_cms.wsgi.application"
ASGI_APPLICATION = "examples.django_cms.asgi.application"
USE_TZ = True

# The canary: first, so that it sees what the other middlewares answer.
MIDDLEWARE = [
    "canary_middleware.django.CanaryMiddleware",
    "django.middleware.common.CommonMiddleware",
]
CANARY = "examples.django_cms.rollout.canary"
CANARY_URLCONF = {"v2": "examples.django_cms.urls_v2"}

DATABASES: dict[str, Any] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("CMS_DATABASE", Path(__file__).with_name("cms.sqlite3")),
        # A version that fails leaves nothing behind, and stable begins anew.
        "ATOMIC_REQUESTS": True,
        # Several workers write: wait for each other at BEGIN instead of failing in the middle (Django 5.1 and later).
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
