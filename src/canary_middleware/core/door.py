"""
One rollout at one revision, ready for requests: who asks, what is forced, which version, and what the answer carries.

Pure: randomness, the wall clock and the place for complaints are handed in.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Final

from .headers import end_of_life, extra
from .identity import Anonymous, is_usable
from .override import Rejected
from .ports import BodyNotRead
from .rollout import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable

    from .headers import Extra
    from .identity import Source
    from .override import OverrideReader
    from .ports import RequestHead
    from .rollout import Router

    Complain = Callable[[str, BaseException, str], None]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 §9.2.1
FALLBACK_METHODS: Final = {
    "never": frozenset[str](),
    "safe-methods": _SAFE,
    "idempotent": _SAFE | {"PUT", "DELETE"},  # RFC 9110 §9.2.2
}


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
    """

    __slots__ = (
        "_extras",
        "_mint",
        "_now",
        "always",
        "anonymous",
        "complain",
        "error",
        "fallback",
        "fallback_methods",
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
    ) -> None:
        plan = router.plan
        self.router = router
        self.sources = sources
        self.override = override
        self.anonymous = next((source for source in sources if isinstance(source, Anonymous)), None)
        self.error = Assignment(router.variant(plan.stable, "error"), router.revision)
        self.fallback = Assignment(router.variant(plan.stable, "fallback"), router.revision)
        self.fallback_methods = FALLBACK_METHODS[plan.fallback] if router.rollout.stable_enabled else FALLBACK_METHODS["never"]
        self._extras: dict[str, Extra] = {}
        self._mint = mint
        self._now = now
        self.complain = complain
        self.always: Assignment | None = None

    def extra(self, version: str) -> Extra:
        """The response headers of *version*."""
        found = self._extras.get(version)
        if found is None:
            found = self._extras[version] = extra(self.router.rollout, version)
        return found

    def forced(self, version: str) -> Door:
        """The same door, with one answer for everybody."""
        door = copy(self)
        door.always = Assignment(self.router.variant(version, "forced"), self.router.revision)
        return door

    @property
    def gone_headers(self) -> list[tuple[str, str]]:
        """What a 410 says beside the usual headers: when the version went, and what succeeds it."""
        return end_of_life(self.router.plan)

    def decide(self, head: RequestHead) -> tuple[Assignment, str | None]:
        """
        The request's assignment, and the anonymous id that was made for it, if one was.

        Raises BodyNotRead where the identity is in a body that the front door has yet to read.
        """
        if self.always is not None:
            return self.always, None
        router = self.router
        if self.override is not None:
            forced = self._forced(head)
            if forced is not None:
                return forced, None
        if router.fixed is not None:
            return router.assign(None, head), None
        for source in self.sources:
            try:
                identity = source.read(head)
            except BodyNotRead:
                raise
            except Exception as error:  # noqa: BLE001 - a key function of the app's, or a framework's session
                self.complain("identity", error, f"{source.spec} counts as absent for that request")
                continue
            if identity and is_usable(identity):
                return router.assign(identity, head), None
        if self.anonymous is not None:
            identity = self._mint()
            return router.assign(identity, head), identity
        return router.assign(None, head), None

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
        return not self.router.rollout.stable_enabled and assignment.role == "stable" and assignment.reason != "error"
