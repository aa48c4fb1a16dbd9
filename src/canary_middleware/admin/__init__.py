"""
The admin API: a rollout's figures, state and audit trail over HTTP, and the verbs that change it.

Off unless a token or an authenticator is configured. Front doors serve it below a path of their own
(``CanaryMiddleware(app, canary=…, admin="/admin/canary")``), where it is neither assigned a version nor counted;
``create_app`` and ``asgi_app`` are for mounting it by hand.
"""

from __future__ import annotations

from .access import Access, Authenticator, Principal
from .api import AdminAPI
from .doors import Admin, Mount, asgi_app, create_app
from .exchange import MAX_BODY, Request

__all__ = [
    "MAX_BODY",
    "Access",
    "Admin",
    "AdminAPI",
    "Authenticator",
    "Mount",
    "Principal",
    "Request",
    "asgi_app",
    "create_app",
]
