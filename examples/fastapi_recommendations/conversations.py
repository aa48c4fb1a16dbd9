"""
Where conversations are kept: in this process, the oldest forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import uuid4

from fastapi import HTTPException

from .models import Conversation

MAX_CONVERSATIONS: Final = 10_000
_kept: OrderedDict[str, Conversation] = OrderedDict()


def begin(user_id: str) -> Conversation:
    """A new, empty conversation of *user_id*."""
    conversation = Conversation(session_id=uuid4().hex, user_id=user_id)
    _kept[conversation.session_id] = conversation
    while len(_kept) > MAX_CONVERSATIONS:
        _kept.popitem(last=False)
    return conversation


def find(session_id: str) -> Conversation:
    """The conversation of that id; 404 where there is none."""
    try:
        return _kept[session_id]
    except KeyError:
        raise HTTPException(404, f"there is no conversation {session_id}") from None


def of_user(user_id: str) -> list[Conversation]:
    """All that are kept of *user_id*, the oldest first."""
    return [conversation for conversation in _kept.values() if conversation.user_id == user_id]
