"""Members, posts, comments and tags."""

from __future__ import annotations

from django.db import models


class Member(models.Model):
    """Somebody who registered."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=80)


class Tag(models.Model):
    """A word that posts are found by."""

    name = models.CharField(max_length=40, unique=True)


class Post(models.Model):
    """An article. *views* counts how often it was read."""

    title = models.CharField(max_length=200)
    body = models.TextField()
    author = models.ForeignKey(Member, on_delete=models.CASCADE, related_name="posts")
    tags = models.ManyToManyField(Tag, related_name="posts")
    views = models.PositiveIntegerField(default=0)


class Comment(models.Model):
    """What a member said about a post."""

    post = models.ForeignKey(Post, on_delete=models.CASCADE, related_name="comments")
    author = models.ForeignKey(Member, on_delete=models.CASCADE, related_name="comments")
    text = models.TextField()
