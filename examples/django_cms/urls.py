"""What version 1 serves; registration picks its version itself."""

from __future__ import annotations

from django.urls import path

from canary_middleware import handlers

from . import v1, v2

registration = path("api/users/", handlers(v1.register, v2.register))

urlpatterns = [
    registration,
    path("api/posts/<int:post_id>/", v1.post),
    path("api/tags/", v1.tags),
]
