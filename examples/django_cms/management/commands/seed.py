"""
Something to read: members, tags, posts and comments, the same every time.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from examples.django_cms.models import Comment, Member, Post, Tag

MEMBERS, TAGS, POSTS, COMMENTS = 6, 12, 20, 8


class Command(BaseCommand):
    """``manage.py seed``; a second time it does nothing."""

    help = "Fill an empty database with sample posts."

    def handle(self, *args: Any, **options: Any) -> None:
        if Post.objects.exists():
            self.stdout.write("There are posts already.")
            return
        with transaction.atomic():
            _fill()
        self.stdout.write(f"{POSTS} posts, {TAGS} tags, {MEMBERS} members.")


def _fill() -> None:
    members = [Member.objects.create(email=f"member{n}@example.org", name=f"Member {n}") for n in range(MEMBERS)]
    tags = [Tag.objects.create(name=f"tag-{n:02}") for n in range(TAGS)]
    for number in range(POSTS):
        author = members[number % MEMBERS]
        post = Post.objects.create(title=f"Post {number}", body=f"What post {number} says.", author=author)
        post.tags.set(tags[number % TAGS : number % TAGS + 4])
        for n in range(COMMENTS):
            Comment.objects.create(post=post, author=members[(number + n) % MEMBERS], text=f"Comment {n}")
