"""
The API itself: one table of what there is, who may do it, and how it ends. Serves no bytes: front doors do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from .._core.exchange import Exchange, active
from .._core.hints import hint
from .._serving.plan_file import once_each
from ..errors import CanaryError, ConfigError, StaleRevision, TransitionRefused
from . import verbs, views
from .exchange import Answer, Problem, Request, ok
from .openapi import document
from .routes import Look, Verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..canary import Canary
    from .access import Access, Principal


LOOKS: Final = {
    "/metrics": Look(views.metrics, ("rollout", "endpoint", "raw")),
    "/endpoints": Look(views.endpoints, ("rollout", "raw")),
    "/status": Look(views.status, ("rollout",)),
    "/history": Look(views.history, ("rollout", "limit")),
    "/explain": Look(views.explain, ("user", "rollout")),
}
VERBS: Final = {
    "/set": Verb(verbs.set_, ("weight", *verbs.COMMON)),
    "/start": Verb(verbs.start),
    "/advance": Verb(verbs.advance),
    "/approve": Verb(verbs.approve),
    "/pause": Verb(verbs.pause),
    "/resume": Verb(verbs.resume),
    "/retry": Verb(verbs.retry),
    "/rollback": Verb(verbs.rollback, ("to_previous", *verbs.COMMON)),
    "/emergency": Verb(verbs.emergency, ("state", *verbs.COMMON[1:])),
    "/bug": Verb(verbs.bug, ("severity", "text", *verbs.COMMON)),
    "/feedback": Verb(verbs.feedback, ("text", "rollout")),
}
_OPENAPI: Final = "/openapi.json"
_LONGEST_ACTOR: Final = 64
# A client that is told "busy" tries again by itself; the follower needs a moment, too.
_RETRY: Final = (("Retry-After", "1"),)


class AdminAPI:
    """
    The admin API of one Canary.

    Args:
        canary: what is looked at and steered.
        access: who may do so.
    """

    def __init__(self, canary: Canary, access: Access) -> None:
        self.canary = canary
        self.access = access

    def answer(self, request: Request) -> Answer:
        """Answer *request*. May block, for the store's sake. Never raises."""
        self._warn_if_covered()
        try:
            answer = ok(self._answer(request))
        except Problem as problem:
            answer = problem.answer()
        except CanaryError as error:
            answer = _problem_of(error).answer()
        except Exception as error:  # noqa: BLE001 - whatever failed, the server must not
            self.canary.troubles.report("admin", error, "that request of the admin API is answered with 500")
            answer = Problem(500, f"{type(error).__name__}; the service's log says more").answer()
        return answer._replace(body=b"") if request.method == "HEAD" else answer

    def _answer(self, request: Request) -> Any:
        path = request.path.rstrip("/") or "/"
        principal = self._principal(request)
        if path == _OPENAPI:
            _require_method(request, "GET")
            return document(LOOKS, VERBS)
        if path in LOOKS:
            _require_method(request, "GET")
            _require_known(request.query, LOOKS[path].query)
            return LOOKS[path].answer(self.canary, request.query)
        if path in VERBS:
            _require_method(request, "POST")
            self._require_own_site(request, principal)
            return VERBS[path].carry_out(verbs.Order(self.canary, _members(request), _actor(request, principal)))
        known = ", ".join((*LOOKS, *VERBS, _OPENAPI))
        raise Problem(404, f"there is no {path!r} here; there are {known}")

    def _principal(self, request: Request) -> Principal:
        principal = self.access.who(request.header("authorization"), request.native)
        if principal is None:
            raise Problem(401, "send Authorization: Bearer <token>", (("WWW-Authenticate", 'Bearer realm="canary"'),))
        if request.method not in ("GET", "HEAD") and not principal.may_write:
            raise Problem(403, f"{principal.name} may look, and not change anything")
        return principal

    def _require_own_site(self, request: Request, principal: Principal) -> None:
        """Another site's page must not steer with the cookie of whoever looks at it."""
        if not principal.by_browser:
            return
        origin, site = request.header("origin"), request.header("sec-fetch-site")
        # Pages cannot forge the one; browsers without it send the other, which a proxy that renames the host belies.
        is_own = (
            site in ("same-origin", "none")
            if site is not None
            else origin is None or origin.partition("://")[2] == request.header("host")
        )
        if not is_own:
            raise Problem(403, "this request comes from another site's page")

    def _warn_if_covered(self) -> None:
        exchange = active.get()
        if isinstance(exchange, Exchange):
            rollout = exchange.variant.rollout
            error = ConfigError(
                f"the admin API is covered by rollout {rollout!r}: pass admin=… to the middleware instead of mounting "
                "it by hand, or add its paths to `exclude` in the plan"
            )
            self.canary.troubles.report("admin", error, "its requests are counted with the service's own")


def _require_method(request: Request, method: str) -> None:
    if request.method == method or (request.method == "HEAD" and method == "GET"):
        return
    allowed = "GET, HEAD" if method == "GET" else method
    raise Problem(405, f"{request.path} takes {allowed}", (("Allow", allowed),))


def _require_known(query: Mapping[str, str], known: tuple[str, ...]) -> None:
    """What is mistyped must not answer for something else."""
    for name in query:
        if name not in known:
            meant = hint(name, known, f"known here: {', '.join(known)}")
            raise Problem(400, f"{name!r} in the query is not known: {meant}")


def _actor(request: Request, principal: Principal) -> str:
    """Who it is, and for whom a program that shares a token says that it acts."""
    name = verbs.in_one_line(str(principal.name))
    said = verbs.in_one_line(_as_sent(request.header("x-canary-actor") or "").strip()[:_LONGEST_ACTOR])
    return f"{name} ({said})" if said else name


def _as_sent(header: str) -> str:
    """*header*, which servers read as Latin-1, as the UTF-8 that most clients send."""
    try:
        return header.encode("latin-1").decode()
    except ValueError:
        return header


def _members(request: Request) -> dict[str, Any]:
    """The members of the request's body."""
    if isinstance(request.body, Problem):
        raise request.body
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    # A page of another site can send a form, but no JSON without asking first.
    if kind != "application/json":
        raise Problem(415, f"Content-Type is {kind!r}: must be application/json, with a JSON object as body")
    try:
        found = json.loads(request.body or b"{}", parse_constant=_no_number, object_pairs_hook=once_each)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Problem(400, f"the body is a JSON {type(found).__name__}: must be an object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _problem_of(error: CanaryError) -> Problem:
    if isinstance(error, StaleRevision):
        return Problem(409, str(error))
    if isinstance(error, TransitionRefused):
        return Problem(422, str(error))
    # Whatever else it may be, the request is not to blame: that was found out before.
    return Problem(503, str(error), _RETRY)
