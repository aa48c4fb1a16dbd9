"""
The items, and how long it takes to ask for them: everything here is the same in every run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from opentelemetry import trace

if TYPE_CHECKING:
    from examples.faults import Fault

TOPICS: Final = ("space", "jazz", "baking", "chess", "trails", "poetry", "robots", "gardens")
_tracer = trace.get_tracer("examples.recommendations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something to recommend; *popularity* is 0 ≤ p < 1."""

    name: str
    topic: str
    popularity: float


def fraction(*parts: str) -> float:
    """A number 0 ≤ x < 1 that belongs to *parts*: what stands for chance in this example."""
    digest = blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _item(number: int) -> Item:
    topic = TOPICS[number % len(TOPICS)]
    name = f"{topic}-{number // len(TOPICS) + 1:03}"
    return Item(name=name, topic=topic, popularity=fraction("popularity", name))


ITEMS: Final = tuple(_item(number) for number in range(400))
BY_NAME: Final = {item.name: item for item in ITEMS}


async def look_up(store: str, user_id: str, *, typical_ms: float, fault: Fault | None = None) -> None:
    """
    Wait as long as *store* takes for *user_id*: around *typical_ms*, for few users three times as long.

    Raises:
        InjectedFault: *fault* says that it is this call's turn.
    """
    with _tracer.start_as_current_span(f"{store} lookup", kind=trace.SpanKind.CLIENT):
        if fault is not None:
            fault.strike()
        await asyncio.sleep(typical_ms * (0.7 + 2.3 * fraction(store, user_id) ** 6) / 1_000)
