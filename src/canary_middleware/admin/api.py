"""
The API itself: one table of what there is, who may do it, and how it ends. Serves no bytes: front doors do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..core.exchange import Exchange, active
from ..core.fields import Reader
from ..errors import CanaryError, ConfigError, StaleRevision, StoreUnavailable, TransitionRefused
from . import verbs, views
from .exchange import MAX_BODY, Answer, Problem, Request, ok
from .openapi import document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..canary import Canary
    from .access import Access, Principal


class Look(NamedTuple):
    """A GET: what answers it, and the names of its query."""

    answer: Callable[[Canary, Mapping[str, str]], Any]
    query: tuple[str, ...]


class Verb(NamedTuple):
    """A POST: what carries it out, and the members of its body besides those that all have."""

    carry_out: Callable[[verbs.Order], Any]
    members: tuple[str, ...] = ()


LOOKS: Final = {
    "/metrics": Look(views.metrics, ("rollout", "endpoint", "raw")),
    "/endpoints": Look(views.endpoints, ("rollout", "raw")),
    "/status": Look(views.status, ("rollout",)),
    "/history": Look(views.history, ("rollout", "limit")),
    "/explain": Look(views.explain, ("user", "rollout")),
}
VERBS: Final = {
    "/set": Verb(verbs.set_, ("weight",)),
    "/start": Verb(verbs.start),
    "/advance": Verb(verbs.advance),
    "/approve": Verb(verbs.approve),
    "/pause": Verb(verbs.pause),
    "/resume": Verb(verbs.resume),
    "/retry": Verb(verbs.retry),
    "/rollback": Verb(verbs.rollback, ("to_previous",)),
    "/emergency": Verb(verbs.emergency, ("state",)),
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
            return LOOKS[path].answer(self.canary, request.query)
        if path in VERBS:
            _require_method(request, "POST")
            self._require_own_site(request, principal)
            return VERBS[path].carry_out(verbs.Order(self.canary, _body(request), _actor(request, principal)))
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
        origin, host = request.header("origin"), request.header("host")
        site = request.header("sec-fetch-site")
        if site not in (None, "same-origin", "none") or (origin and origin.partition("://")[2] != host):
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


def _actor(request: Request, principal: Principal) -> str:
    """Who it is, and for whom a program that shares a token says that it acts."""
    told = (request.header("x-canary-actor") or "").strip()
    said = "".join(letter if letter.isprintable() else "?" for letter in told[:_LONGEST_ACTOR])
    return f"{principal.name} ({said})" if said else principal.name


def _body(request: Request) -> Reader:
    if request.body is None:
        raise Problem(413, f"the body is longer than {MAX_BODY:,} bytes")
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    # A page of another site can send a form, but no JSON without asking first.
    if kind != "application/json":
        raise Problem(415, f"Content-Type is {kind!r}: must be application/json, with a JSON object as body")
    try:
        found = json.loads(request.body or b"{}", parse_constant=_no_number, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Problem(400, f"the body is a JSON {type(found).__name__}: must be an object")
    return Reader(found, "")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a member stands twice in one object")
    return table


def _problem_of(error: CanaryError) -> Problem:
    if isinstance(error, StaleRevision):
        return Problem(409, str(error))
    if isinstance(error, TransitionRefused):
        return Problem(422, str(error))
    if isinstance(error, StoreUnavailable):
        return Problem(503, str(error), _RETRY)
    return Problem(400, str(error))
