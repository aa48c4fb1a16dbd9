"""
Version 1: what is popular, the same for everybody. It sorts the whole catalogue each time and asks a slow store.
"""

from __future__ import annotations

from . import conversations
from .catalogue import ITEMS, Item, look_up
from .models import Comparison, Conversation, Message, Question, Recommendations, Turn, User


async def personalized(question: Question) -> Recommendations:
    """The most popular items, of the topic asked for where it is one."""
    await _sales(question.user_id)
    items = [item.name for item in _popular() if question.query in ("", item.topic)]
    return Recommendations(user_id=question.user_id, strategy="popular", items=items[: question.limit])


async def compare(comparison: Comparison) -> Recommendations:
    """The items named, the most popular first; unknown ones are left out."""
    await _sales(comparison.user_id)
    items = [item.name for item in _popular() if item.name in comparison.items]
    return Recommendations(user_id=comparison.user_id, strategy="popular", items=items)


async def start(user: User) -> Conversation:
    await _sales(user.user_id)
    return conversations.begin(user.user_id)


async def turn(session_id: str, message: Message) -> Conversation:
    """Answers the last message only."""
    conversation = conversations.find(session_id)
    await _sales(message.user_id)
    best = next((item.name for item in _popular() if item.topic in message.text), _popular()[0].name)
    conversation.turns.append(Turn(said=message.text, answered=f"Many people like {best}."))
    return conversation


async def read(session_id: str) -> Conversation:
    conversation = conversations.find(session_id)
    await _sales(conversation.user_id)
    return conversation


async def close(session_id: str, user: User) -> Conversation:
    conversation = conversations.find(session_id)
    await _sales(user.user_id)
    conversation.is_open = False
    return conversation


async def overview(user_id: str) -> list[Conversation]:
    await _sales(user_id)
    return conversations.of_user(user_id)


async def _sales(user_id: str) -> None:
    await look_up("sales", user_id, typical_ms=24)


def _popular() -> list[Item]:
    return sorted(ITEMS, key=lambda item: item.popularity, reverse=True)
