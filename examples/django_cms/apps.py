"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class CmsConfig(AppConfig):
    """Models, migrations and the ``seed`` command."""

    name = "examples.django_cms"
    label = "cms"
    default_auto_field = "django.db.models.BigAutoField"
