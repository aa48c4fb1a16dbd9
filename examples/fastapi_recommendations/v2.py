"""
Version 2: what this user likes, from a faster store. RECOMMENDER_V2_FAULT=every-7th makes it fail.
"""

from __future__ import annotations

from heapq import nlargest

from examples.faults import Fault

from . import conversations
from .catalogue import BY_NAME, ITEMS, Item, fraction, look_up
from .models import Comparison, Conversation, Message, Question, Recommendations, Turn, User

_fault = Fault("RECOMMENDER_V2_FAULT")


async def personalized(question: Question) -> Recommendations:
    """The items that suit the user best, of the topic asked for where it is one."""
    await _profile(question.user_id)
    items = _suited(question.user_id, [item for item in ITEMS if question.query in ("", item.topic)], question.limit)
    return Recommendations(user_id=question.user_id, strategy="personal", items=items)


async def compare(comparison: Comparison) -> Recommendations:
    """The items named, the best suited first; unknown ones are left out."""
    await _profile(comparison.user_id)
    known = [BY_NAME[name] for name in comparison.items if name in BY_NAME]
    items = _suited(comparison.user_id, known, len(known))
    return Recommendations(user_id=comparison.user_id, strategy="personal", items=items)


async def start(user: User) -> Conversation:
    await _profile(user.user_id)
    return conversations.begin(user.user_id)


async def turn(session_id: str, message: Message) -> Conversation:
    """Answers with all that was said so far in mind."""
    conversation = conversations.find(session_id)
    await _profile(message.user_id)
    said = " ".join([*(turn.said for turn in conversation.turns), message.text])
    best = _suited(message.user_id, [item for item in ITEMS if item.topic in said] or ITEMS, 1)[0]
    conversation.turns.append(Turn(said=message.text, answered=f"You will like {best}."))
    return conversation


async def read(session_id: str) -> Conversation:
    conversation = conversations.find(session_id)
    await _profile(conversation.user_id)
    return conversation


async def close(session_id: str, user: User) -> Conversation:
    conversation = conversations.find(session_id)
    await _profile(user.user_id)
    conversation.is_open = False
    return conversation


async def overview(user_id: str) -> list[Conversation]:
    await _profile(user_id)
    return conversations.of_user(user_id)


async def _profile(user_id: str) -> None:
    await look_up("profile", user_id, typical_ms=9, fault=_fault)


def _suited(user_id: str, items: list[Item] | tuple[Item, ...], limit: int) -> list[str]:
    best = nlargest(limit, items, key=lambda item: item.popularity + 2 * fraction(user_id, item.topic))
    return [item.name for item in best]
