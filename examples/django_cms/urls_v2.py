"""What version 2 serves: ``CANARY_URLCONF`` in the settings puts it in place of urls.py, request by request."""

from __future__ import annotations

from django.urls import path

from . import v2
from .urls import registration

urlpatterns = [
    registration,
    path("api/posts/<int:post_id>/", v2.post),
    path("api/tags/", v2.tags),
]
