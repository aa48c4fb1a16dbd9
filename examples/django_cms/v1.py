"""Version 1: one query per row it shows."""

from __future__ import annotations

from django.db.models import F
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from . import views
from .models import Member, Post, Tag


@require_POST
def register(request: HttpRequest) -> JsonResponse:
    """Looks whether the address is free, writes, and reads back what it wrote."""
    form = views.read_registration(request)
    if not form.is_valid():
        return views.invalid(form)
    if Member.objects.filter(email=form.cleaned_data["email"]).exists():
        return views.taken(form.cleaned_data["email"])
    Member.objects.create(**form.cleaned_data)
    return views.registered(Member.objects.get(email=form.cleaned_data["email"]))


@require_GET
def post(request: HttpRequest, post_id: int) -> JsonResponse:
    Post.objects.filter(pk=post_id).update(views=F("views") + 1)
    found = get_object_or_404(Post, pk=post_id)
    return JsonResponse(
        {
            "id": found.pk,
            "title": found.title,
            "body": found.body,
            "author": found.author.name,
            "tags": [tag.name for tag in found.tags.order_by("name")],
            # The author of each comment is a query of its own.
            "comments": [{"author": c.author.name, "text": c.text} for c in found.comments.order_by("pk")],
            "views": found.views,
        }
    )


@require_GET
def tags(request: HttpRequest) -> JsonResponse:
    # And so is the count of each tag.
    rows = [{"name": tag.name, "posts": tag.posts.count()} for tag in Tag.objects.order_by("name")]
    return JsonResponse({"tags": rows})
