"""Version 2: the same answers from as few queries as it takes. CMS_V2_FAULT=every-3rd makes it fail, after it wrote."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import Count, F, Prefetch
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from examples.faults import Fault

from . import views
from .models import Comment, Member, Post, Tag

_fault = Fault("CMS_V2_FAULT")
_WITH_ALL = Post.objects.select_related("author").prefetch_related(
    Prefetch("tags", Tag.objects.order_by("name")),
    Prefetch("comments", Comment.objects.select_related("author").order_by("pk")),
)


@require_POST
def register(request: HttpRequest) -> JsonResponse:
    """Writes, and lets the database say whether the address was free."""
    form = views.read_registration(request)
    if not form.is_valid():
        return views.invalid(form)
    try:
        with transaction.atomic():
            member = Member.objects.create(**form.cleaned_data)
    except IntegrityError:
        return views.taken(form.cleaned_data["email"])
    _fault.strike()
    return views.registered(member)


@require_GET
def post(request: HttpRequest, post_id: int) -> JsonResponse:
    Post.objects.filter(pk=post_id).update(views=F("views") + 1)
    _fault.strike()
    found = get_object_or_404(_WITH_ALL, pk=post_id)
    return JsonResponse(
        {
            "id": found.pk,
            "title": found.title,
            "body": found.body,
            "author": found.author.name,
            "tags": [tag.name for tag in found.tags.all()],
            "comments": [{"author": c.author.name, "text": c.text} for c in found.comments.all()],
            "views": found.views,
        }
    )


@require_GET
def tags(request: HttpRequest) -> JsonResponse:
    _fault.strike()
    rows = Tag.objects.annotate(count=Count("posts")).order_by("name").values_list("name", "count")
    return JsonResponse({"tags": [{"name": name, "posts": count} for name, count in rows]})
