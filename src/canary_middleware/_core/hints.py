"""
What somebody who mistyped a name may have meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of *known* that is spelt most like *word*; None where none is near."""
    from difflib import get_close_matches  # here: whoever mistypes nothing need not load it

    names = list(known)
    # Somebody who stopped typing means what begins so, and of several the first: a look is listed before a change.
    begun = next((name for name in names if len(word) > 1 and name.startswith(word)), None)
    return begun or next(iter(get_close_matches(word, names, 1)), None)


def hint(word: str, known: Iterable[str], otherwise: str) -> str:
    """``did you mean 'checkout'?`` where one of *known* is near *word*, else what there is *otherwise* to say."""
    near = nearest(word, known)
    return otherwise if near is None else f"did you mean {near!r}?"
