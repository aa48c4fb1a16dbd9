"""
How a version's run ended when it raised: one rule for every front door.

Whether the running task was really cancelled is told by the door; this file knows no event loop.
"""

from __future__ import annotations

from typing import Literal

Ending = Literal["failed", "interrupted", "left"]
"""
``failed``: the version's failure, which stable may answer. ``interrupted``: a failure too, but whoever interrupted the
process must hear of it. ``left``: the request was given up from outside, neither success nor failure.
"""


def ending_of(error: BaseException, *, is_cancelled: bool) -> Ending:
    """
    What *error*, raised by a version's code, says of its request.

    ``sys.exit()`` is a failure as any other. A cancellation is the client's or the server's doing only where somebody
    cancelled this very request; one that leaked out of something the version awaited is the version's failure. A
    generator that is thrown away (``GeneratorExit``) has been left. A group is as bad as the worst of its members.

    Args:
        is_cancelled: whether the request's own task is being cancelled.
    """
    if isinstance(error, BaseExceptionGroup):
        found = {ending_of(one, is_cancelled=is_cancelled) for one in error.exceptions}
        return "interrupted" if "interrupted" in found else "failed" if "failed" in found else "left"
    if isinstance(error, (Exception, SystemExit)):
        return "failed"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, GeneratorExit) or is_cancelled:
        return "left"
    return "failed"
