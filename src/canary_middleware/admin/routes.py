"""
What a path of the admin API leads to: who answers, and what may be asked of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import verbs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..canary import Canary


class Look(NamedTuple):
    """A GET: what answers it, and the names of its query."""

    answer: Callable[[Canary, Mapping[str, str]], Any]
    query: tuple[str, ...]


class Verb(NamedTuple):
    """A POST: what carries it out, and the members of its body."""

    carry_out: Callable[[verbs.Order], Any]
    members: tuple[str, ...] = verbs.COMMON
