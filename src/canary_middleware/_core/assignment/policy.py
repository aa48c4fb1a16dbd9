"""
One rollout at one revision, ready for requests: who asks, what is forced, which version, and what the answer carries.

Pure: randomness, the wall clock and the place for complaints are handed in.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Final

from ..headers import end_of_life, extra
from ..lifecycle.rollout import Assignment
from ..ports import BodyNotRead
from .identity import MAX_IDENTITY_BYTES, Anonymous, Header, is_usable
from .override import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..evidence.guardrail import Guard
    from ..exchange import Exchange
    from ..headers import Extra
    from ..lifecycle.rollout import Rollout, Router, Variant
    from ..ports import RequestHead
    from .identity import Source
    from .override import OverrideReader

    Complain = Callable[[str, BaseException, str], None]

_SHORT: Final = MAX_IDENTITY_BYTES // 4  # characters that cannot be too many bytes of UTF-8
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 §9.2.1
FALLBACK_METHODS: Final = {
    "never": frozenset[str](),
    "safe-methods": _SAFE,
    "idempotent": _SAFE | {"PUT", "DELETE"},  # RFC 9110 §9.2.2
}


class _Extras(dict["Variant", "Extra"]):
    """Variant → response headers, made when first asked for."""

    def __init__(self, rollout: Rollout) -> None:
        super().__init__()
        self._rollout = rollout

    def __missing__(self, variant: Variant) -> Extra:
        found = self[variant] = extra(self._rollout, variant.version, variant.reason)
        return found


class Door:
    """
    Decides the requests of one rollout.

    Args:
        router: the rollout, compiled.
        sources: where to look for an identity, in order; bound to their secrets and proxies.
        override: reads forced versions; None where no token is configured.
        mint: makes a new random identity for the anonymous cookie.
        now: Unix seconds.
        complain: told of sources that fail: component, error, consequence.
        end: told of each exchange that ends.
    """

    __slots__ = (
        "is_settled",
        "_assign",
        "_header",
        "_mint",
        "_now",
        "_reads",
        "always",
        "anonymous",
        "complain",
        "end",
        "error",
        "extras",
        "fallback",
        "fallback_methods",
        "guard",
        "is_retired",
        "override",
        "router",
        "sources",
    )

    def __init__(
        self,
        router: Router,
        sources: tuple[Source, ...],
        override: OverrideReader | None,
        mint: Callable[[], str],
        now: Callable[[], float],
        complain: Complain,
        end: Callable[[Exchange], None],
    ) -> None:
        plan = router.plan
        self.router = router
        self.sources = sources
        self._reads = tuple((source.read, source) for source in sources)
        self.override = override
        self.anonymous = next((source for source in sources if isinstance(source, Anonymous)), None)
        self.error = Assignment(router.variant(plan.stable, "error"), router.revision)
        self.fallback = Assignment(router.variant(plan.stable, "fallback"), router.revision)
        self.fallback_methods = FALLBACK_METHODS[plan.fallback if router.rollout.stable_enabled else "never"]
        self.extras: dict[Variant, Extra] = _Extras(router.rollout)
        self.is_retired = not router.rollout.stable_enabled
        self._mint = mint
        self._now = now
        self.complain = complain
        self.end = end
        self.guard: Guard | None = None
        """Watches how the requests that it decides end; hung by the Canary."""
        self.always: Assignment | None = None
        self.is_settled = override is not None or router.fixed is not None
        # Most services: a header first, and nothing but the hash to decide. One look instead of a loop over sources.
        is_plain = router.is_by_hash_only and not self.is_settled and bool(sources)
        first = sources[0] if is_plain else None
        self._header = first.name if isinstance(first, Header) else None
        self._assign = router.assign

    def forced(self, version: str) -> Door:
        """The same door, with one answer for everybody."""
        door = copy(self)
        door.always = Assignment(self.router.variant(version, "forced"), self.router.revision)
        door.is_settled = True
        door._header = None  # noqa: SLF001 - a copy of ourselves
        return door

    @property
    def gone_headers(self) -> list[tuple[str, str]]:
        """What a 410 says beside the usual headers: when the version went, and what succeeds it."""
        # After completion every answer of stable says so, this one too.
        return [] if self.router.rollout.phase == "completed" else end_of_life(self.router.plan)

    def decide(self, head: RequestHead) -> Assignment:
        """
        The request's assignment. Where an anonymous id was made for it, it is left in ``head.new_id``.

        Raises BodyNotRead where the identity is in a body that the front door has yet to read.
        """
        if self._header is not None:
            identity = head.header(self._header)
            if identity and len(identity) <= _SHORT:
                return self._assign(identity)
        router = self.router
        if self.is_settled:
            settled = self._settled(head)
            if settled is not None:
                return settled
        for read, source in self._reads if head.resume is None else self._left(head.resume):
            try:
                identity = read(head)
            except BodyNotRead as wanted:
                wanted.asked = self.sources[: self.sources.index(source)]
                raise
            except Exception as error:  # noqa: BLE001 - a key function of the app's, or a framework's session
                self.complain("identity", error, f"{source.spec} counts as absent for that request")
                continue
            if identity and (len(identity) <= _SHORT or is_usable(identity)):
                return router.assign(identity, head)
        if self.anonymous is not None:
            head.new_id = identity = self._mint()
            return router.assign(identity, head)
        return router.assign(None, head)

    def _left(self, resume: BodyNotRead) -> list[tuple[Callable[[RequestHead], str | None], Source]]:
        """The sources that have not been asked yet."""
        return [(read, source) for read, source in self._reads if source not in resume.asked]

    def _settled(self, head: RequestHead) -> Assignment | None:
        """The answer that does not depend on who asks, where there is one."""
        if self.always is not None:
            return self.always
        if self.override is not None and head.resume is None:
            forced = self._forced(head)
            if forced is not None:
                return forced
        return None if self.router.fixed is None else self.router.assign(None, head)

    def _forced(self, head: RequestHead) -> Assignment | None:
        assert self.override is not None
        try:
            wanted = self.override.read(head, self._now())
        except Rejected as error:
            self.complain("override", error, "the request was assigned as if it had asked for nothing")
            return None
        return None if wanted is None else self.router.overridden(wanted)

    def is_gone(self, assignment: Assignment) -> bool:
        """Whether the request is pinned to a stable version that has been retired: it gets 410."""
        # An emergency and a failure of ours are no wish of the request's: stable, which is still there, serves it.
        return self.is_retired and assignment.role == "stable" and assignment.reason not in ("error", "emergency")
