"""
What may be looked at: figures, status, audit trail, one identity's version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..status import event_of, status_here, status_of
from .exchange import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..canary import Canary

_MOST_EVENTS = 1000


def metrics(canary: Canary, query: Mapping[str, str]) -> Any:
    """Both versions' figures and their comparison, of every worker; of one endpoint with ``endpoint=``."""
    name, raw = _rollout(canary, query), _flag(query, "raw")
    if "endpoint" not in query:
        return canary.metrics_summary(name, raw=raw)
    endpoints = canary.endpoint_metrics(name, raw=raw)
    found = endpoints.get(query["endpoint"])
    if found is None:
        known = ", ".join(sorted(endpoints)) or "none yet"
        raise Problem(404, f"no request came to endpoint {query['endpoint']!r}; known are: {known}")
    return found


def endpoints(canary: Canary, query: Mapping[str, str]) -> Any:
    """The same for each endpoint, by its route template."""
    return canary.endpoint_metrics(_rollout(canary, query), raw=_flag(query, "raw"))


def status(canary: Canary, query: Mapping[str, str]) -> Any:
    """Where the rollout stands, as ``canary status --json`` says it; without a name a list of all."""
    names = [rollout.name for rollout in canary.rollouts()]
    if "rollout" in query or len(names) == 1:
        return _status(canary, _rollout(canary, query))
    return [_status(canary, name) for name in names]


def _status(canary: Canary, name: str) -> dict[str, Any]:
    control = canary.control
    if control is None:
        return status_here(canary, name)
    return status_of(control, control.rollout(name))


def history(canary: Canary, query: Mapping[str, str]) -> Any:
    """The audit trail, newest first."""
    text = query.get("limit", "20")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= _MOST_EVENTS:
        raise Problem(400, f"limit = {text!r}: must be a whole number, 1 … {_MOST_EVENTS}")
    store = canary.store
    if store is None:
        return []
    name = _rollout(canary, query) if "rollout" in query else None
    now = store.now()
    return [event_of(event, now) for event in store.history(name, int(text))]


def explain(canary: Canary, query: Mapping[str, str]) -> Any:
    """Which version an identity gets, why, and from which weight on the hash gives it the canary."""
    user = query.get("user", "")
    if not user:
        raise Problem(400, "user must be there: the identity that is asked about, as ?user=user-42")
    return canary.explain(user, rollout=_rollout(canary, query))


def _rollout(canary: Canary, query: Mapping[str, str]) -> str:
    """The rollout's name that was asked for. Raises ConfigError, which says which there are."""
    return canary.rollout(query.get("rollout")).name


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "0").lower()
    if text not in ("0", "1", "true", "false"):
        raise Problem(400, f"{name} = {text!r}: must be 1 or 0")
    return text in ("1", "true")
