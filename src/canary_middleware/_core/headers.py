"""
What we send, as text: built once per version and revision, appended to what the app set, never replacing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from .exchange import Exchange
    from .lifecycle.rollout import Reason, Rollout
    from .plan.schema import RolloutPlan

Header = tuple[str, str]

FALLBACK: Final[Header] = ("X-Canary-Fallback", "1")
GONE_BODY: Final = b"This version of the API has been retired.\n"
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Extra:
    """
    The headers that one version's responses carry.

    Attributes:
        text: name and value, for WSGI and frameworks.
        raw: the same as lower-case bytes, for ASGI.
        wants_private: whether ``Cache-Control: private`` is due on GET and HEAD, because no ``Vary`` can tell a shared
            cache which version a client gets.
    """

    __slots__ = ("raw", "text", "wants_private")

    def __init__(self, text: Iterable[Header], wants_private: bool) -> None:
        self.text = tuple(text)
        self.raw = encoded(self.text)
        self.wants_private = wants_private


def encoded(headers: Iterable[Header]) -> tuple[tuple[bytes, bytes], ...]:
    """*headers* as ASGI wants them."""
    return tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers)


def extra(rollout: Rollout, version: str, reason: Reason = "weight") -> Extra:
    """What responses of *version*, given for *reason*, carry while *rollout* stands as it does."""
    plan = rollout.plan
    headers: list[Header] = []
    if plan.version_header:
        headers.append((plan.version_header, version))
    wants_private = False
    if plan.cache_headers and _may_differ(rollout):
        names, wants_private = _vary(plan)
        if names:
            headers.append(("Vary", ", ".join(names)))
    if plan.cache_headers and reason == "override":
        # Whoever forced it is nobody that a shared cache may take for everybody.
        wants_private = True
    if version == plan.stable and rollout.phase == "completed":
        headers.extend(end_of_life(plan))
    return Extra(headers, wants_private)


def _may_differ(rollout: Rollout) -> bool:
    """Whether two clients may get different versions for one URL. Not only now: a cached answer outlives a change."""
    plan = rollout.plan
    overrides = plan.overrides
    return bool(rollout.effective_ppm or plan.segments or overrides.users or overrides.header or overrides.cookie)


def _vary(plan: RolloutPlan) -> tuple[list[str], bool]:
    """The request headers the version depends on, and whether it depends on something that is no header."""
    names: dict[str, str] = {}
    hidden = False
    for source in plan.key:
        if source.vary is not None:
            for name in source.vary.split(", "):
                names.setdefault(name.lower(), name)
        elif not source.in_url:
            hidden = True
    for segment in plan.segments:
        if segment.kind == "header":
            names.setdefault(segment.attribute.lower(), segment.attribute)
        elif segment.kind != "identity":
            hidden = True
    return list(names.values()), hidden


def end_of_life(plan: RolloutPlan) -> list[Header]:
    """Deprecation (RFC 9745), Sunset (RFC 8594) and their links, as the plan's ``end_of_life`` says."""
    end = plan.end_of_life
    if end is None:
        return []
    headers: list[Header] = []
    if end.deprecation is not None:
        headers.append(("Deprecation", f"@{int(end.deprecation.timestamp())}"))
    if end.sunset is not None:
        headers.append(("Sunset", http_date(end.sunset)))
    links = [
        f'<{target}>; rel="{relation}"'
        for target, relation in (
            (end.deprecation_link, "deprecation"),
            (end.sunset_link, "sunset"),
            (end.successor, "successor-version"),
        )
        if target
    ]
    return headers + ([("Link", ", ".join(links))] if links else [])


def http_date(moment: datetime) -> str:
    """*moment* as IMF-fixdate (RFC 9110 §5.6.7), for example ``Sun, 06 Nov 1994 08:49:37 GMT``."""
    utc = (moment - moment.utcoffset()) if moment.utcoffset() else moment  # type: ignore[operator]
    return (
        f"{_DAYS[utc.weekday()]}, {utc.day:02} {_MONTHS[utc.month - 1]} {utc.year:04} "
        f"{utc.hour:02}:{utc.minute:02}:{utc.second:02} GMT"
    )


def more_headers(exchange: Exchange, cache_control: Sequence[str]) -> list[Header]:
    """
    All that an answer carries where it is more than its version's own headers.

    Args:
        cache_control: the values the app set; one that is private or not stored at all needs nothing from us.
    """
    door = exchange.door
    found = door.extras[exchange.assignment[0]]
    headers = [*found.text]
    if exchange.failure is not None:
        headers.append(FALLBACK)
    is_private = (found.wants_private or _was_forced(exchange)) and exchange.method in ("GET", "HEAD")
    if exchange.new_id is not None and door.anonymous is not None:
        headers.append(("Set-Cookie", door.anonymous.set_cookie(exchange.new_id)))
        is_private = door.router.plan.cache_headers
    said = {directive.strip().lower() for value in cache_control for directive in value.split(",")}
    # private="Set-Cookie" keeps back that field only (RFC 9111 §5.2.2.7).
    if is_private and said.isdisjoint(("private", "no-store")):
        headers.append(("Cache-Control", "private"))
    return headers


def _was_forced(exchange: Exchange) -> bool:
    """Whether stable answers for a canary that somebody had forced: nobody that a cache may take for everybody."""
    is_kept_apart = exchange.door.router.plan.cache_headers
    return is_kept_apart and exchange.failure is not None and exchange.decided.reason == "override"
