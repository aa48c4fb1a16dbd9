"""What the views of both versions have in common: how they read and how they answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from django.http import HttpRequest, JsonResponse

from .forms import Registration

if TYPE_CHECKING:
    from .models import Member


def read_registration(request: HttpRequest) -> Registration:
    """The form, filled from the JSON body; not valid where that is no JSON object."""
    try:
        data = json.loads(request.body)
    except ValueError:
        data = None
    return Registration(data if isinstance(data, dict) else {})


def invalid(form: Registration) -> JsonResponse:
    return JsonResponse({"errors": form.errors}, status=400)


def taken(email: str) -> JsonResponse:
    return JsonResponse({"errors": {"email": [f"{email} is registered already."]}}, status=409)


def registered(member: Member) -> JsonResponse:
    return JsonResponse({"id": member.pk, "email": member.email, "name": member.name}, status=201)
