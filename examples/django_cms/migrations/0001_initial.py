"""Members, tags, posts and comments."""

from __future__ import annotations

from typing import Any, ClassVar

import django.db.models.deletion
from django.db import migrations, models


def _id() -> tuple[str, models.BigAutoField[Any, Any]]:
    return "id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


def _belongs_to(model: str, related_name: str) -> models.ForeignKey[Any, Any]:
    return models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name=related_name, to=model)


class Migration(migrations.Migration):
    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Member",
            fields=[
                _id(),
                ("email", models.EmailField(max_length=254, unique=True)),
                ("name", models.CharField(max_length=80)),
            ],
        ),
        migrations.CreateModel(name="Tag", fields=[_id(), ("name", models.CharField(max_length=40, unique=True))]),
        migrations.CreateModel(
            name="Post",
            fields=[
                _id(),
                ("title", models.CharField(max_length=200)),
                ("body", models.TextField()),
                ("views", models.PositiveIntegerField(default=0)),
                ("author", _belongs_to("cms.member", "posts")),
                ("tags", models.ManyToManyField(related_name="posts", to="cms.tag")),
            ],
        ),
        migrations.CreateModel(
            name="Comment",
            fields=[
                _id(),
                ("text", models.TextField()),
                ("author", _belongs_to("cms.member", "comments")),
                ("post", _belongs_to("cms.post", "comments")),
            ],
        ),
    ]
