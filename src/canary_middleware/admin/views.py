"""
What may be looked at: figures, status, audit trail, one identity's version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._views.status import event_of, status_here, status_of
from .._views.summary import by_endpoint, summarise
from ..errors import ConfigError
from .exchange import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.plan.schema import RolloutPlan
    from .._core.tallies import Cell, Series
    from ..canary import Canary

_MOST_EVENTS = 1000


def metrics(canary: Canary, query: Mapping[str, str]) -> Any:
    """Both versions' figures and their comparison, of every worker; of one endpoint with ``endpoint=``."""
    name, raw = _rollout(canary, query), _flag(query, "raw")
    if "endpoint" not in query:
        series = _fleet(canary, name)
        if series is None:
            return canary.metrics_summary(name, raw=raw)
        return summarise(*series, raw=raw)
    endpoints = _endpoints(canary, name, raw=raw)
    found = endpoints.get(query["endpoint"])
    if found is None:
        known = ", ".join(sorted(endpoints)) or "none yet"
        raise Problem(404, f"no request came to endpoint {query['endpoint']!r}; known are: {known}")
    return found


def endpoints(canary: Canary, query: Mapping[str, str]) -> Any:
    """The same for each endpoint, by its route template."""
    return _endpoints(canary, _rollout(canary, query), raw=_flag(query, "raw"))


def _endpoints(canary: Canary, name: str, *, raw: bool) -> dict[str, dict[str, Any]]:
    series = _fleet(canary, name)
    return canary.endpoint_metrics(name, raw=raw) if series is None else by_endpoint(*series, raw=raw)


def _fleet(canary: Canary, name: str) -> tuple[Mapping[Series, Cell], RolloutPlan, float] | None:
    """
    What every worker has counted; None where this process is all there is.

    Raises:
        StoreUnavailable: this worker's own counts, which the Canary would give then, are not what was asked for.
    """
    if canary.sharing is None:
        return None
    series, elapsed_s = canary.sharing.counted(name)
    return series, canary.rollout(name).plan, elapsed_s


def status(canary: Canary, query: Mapping[str, str]) -> Any:
    """Where the rollout stands, as ``canary status --json`` says it; without a name a list of all."""
    names = [rollout.name for rollout in canary.rollouts()]
    if "rollout" in query or len(names) == 1:
        return _status(canary, _rollout(canary, query))
    return [_status(canary, name) for name in names]


def _status(canary: Canary, name: str) -> dict[str, Any]:
    control = canary.control
    if control is None:
        return status_here(canary.rollout(name), canary.metrics_summary(name))
    if not control.knows(name):
        # Before the first request; or the store was emptied, and its workers put back what they serve.
        return {**status_here(canary.rollout(name), canary.metrics_summary(name)), "store": control.store.url}
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


def named(canary: Canary, name: str | None) -> str:
    """The name of a rollout, where None will do if there is only one. Raises Problem, which says which there are."""
    try:
        return canary.rollout(name).name
    except ConfigError as error:
        raise Problem(400, str(error)) from error


def _rollout(canary: Canary, query: Mapping[str, str]) -> str:
    return named(canary, query.get("rollout"))


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "0").lower()
    if text not in ("0", "1", "true", "false"):
        raise Problem(400, f"{name} = {text!r}: must be 1 or 0")
    return text in ("1", "true")
