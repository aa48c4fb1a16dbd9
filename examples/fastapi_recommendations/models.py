"""
What goes in and out. Both versions share it: v2 is a better answer to the same question.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Question(BaseModel):
    """What a user asks for; *user_id* also decides the version."""

    user_id: str
    query: str = ""
    limit: int = Field(default=5, ge=1, le=50)


class Comparison(BaseModel):
    """Two or more items, to be put in order for one user."""

    user_id: str
    items: list[str] = Field(min_length=2, max_length=20)


class User(BaseModel):
    """Whoever asks, and nothing else."""

    user_id: str


class Message(BaseModel):
    """One thing a user says in a conversation."""

    user_id: str
    text: str


class Recommendations(BaseModel):
    """Items, best first."""

    user_id: str
    strategy: Literal["popular", "personal"]
    items: list[str]


class Turn(BaseModel):
    """One exchange of a conversation."""

    said: str
    answered: str


class Conversation(BaseModel):
    """A conversation so far."""

    session_id: str
    user_id: str
    is_open: bool = True
    turns: list[Turn] = []
