"""
Questions to a running service, its store and its collector; each answer is a line for a person. Nothing is changed.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.assignment.override import sign
from .._views.acknowledged import followers_of
from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._core.lifecycle.rollout import Rollout
    from .._core.plan.schema import RolloutPlan
    from ..stores.changes import Control

_OVERRIDE_S: Final = 60
_LEASE: Final = "canary-test"


class Finding(NamedTuple):
    """One line: INFO, SUCCESS, WARNING or ERROR; what was looked at; what came of it."""

    level: str
    subject: str
    message: str

    @property
    def text(self) -> str:
        return f"{self.subject}: {self.message}"


class Reply(NamedTuple):
    """What the service answered: status 0 and the reason in *problem* where it did not."""

    status: int
    version: str | None
    fell_back: bool
    took_s: float
    problem: str = ""


class _Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer. Followed, it would take the override and the caller's headers to another host."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:  # Any: urllib's
        return None


_OPENER: Final = urllib.request.build_opener(_Stay)


def ask(url: str, plan: RolloutPlan, headers: Mapping[str, str], *, method: str, timeout_s: float) -> Reply:
    """One request to the service."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {url!r}: must begin with http:// or https://")
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310 - checked above
    began = time.perf_counter()
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            response.read(65_536)
            status, got = response.status, response.headers
    except urllib.error.HTTPError as error:
        status, got = error.code, error.headers
        error.close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Reply(0, None, False, time.perf_counter() - began, str(reason))
    took_s = time.perf_counter() - began
    version = got.get(plan.version_header) if plan.version_header else None
    return Reply(status, version, "X-Canary-Fallback" in got, took_s)


def probe_service(
    url: str, rollout: Rollout, headers: Mapping[str, str], *, method: str, timeout_s: float
) -> Iterator[Finding]:
    """The service as a user meets it, and then each version by an override."""
    plan = rollout.plan
    plain = ask(url, plan, headers, method=method, timeout_s=timeout_s)
    if plain.problem:
        yield Finding("ERROR", "service", f"✗ {method} {url} failed: {plain.problem}")
        return
    by = f" by {plain.version}" if plain.version else ""
    level = "ERROR" if plain.status >= 500 else "SUCCESS" if plain.status < 400 else "WARNING"
    yield Finding(level, "service", f"{_health(plain)}, {plain.status} in {plain.took_s * 1000:.0f} ms{by}")
    if plan.version_header and plain.version is None:
        yield Finding(
            "WARNING",
            "service",
            f"no {plan.version_header} in the answer: no rollout covers {url}, or something on the way removes it",
        )
    for version in (plan.stable, *(name for name, _ in plan.canaries)):
        yield _probe_version(version, url, rollout, headers, plain, method=method, timeout_s=timeout_s)


def _probe_version(
    version: str,
    url: str,
    rollout: Rollout,
    headers: Mapping[str, str],
    plain: Reply,
    *,
    method: str,
    timeout_s: float,
) -> Finding:
    plan = rollout.plan
    overrides = plan.overrides
    token = os.environ.get(overrides.token_env or "")
    if not overrides.header or not token:
        needed = f"set {overrides.token_env} here as in the service" if overrides.header else "add overrides.header"
        return Finding("WARNING", version, f"? Unknown: {needed}, so that this test may ask for a version")
    if rollout.phase == "locked":
        return Finding("WARNING", version, "? Unknown: the emergency latch is on, overrides are off")
    signed = sign(version, token=token, until_s=int(time.time()) + _OVERRIDE_S)
    reply = ask(url, plan, {**headers, overrides.header: signed}, method=method, timeout_s=timeout_s)
    shown = f"{reply.status} in {reply.took_s * 1000:.0f} ms"
    if reply.problem:
        return Finding("ERROR", version, f"✗ Failing: {reply.problem}")
    if reply.fell_back:
        return Finding("ERROR", version, f"✗ Failing: {plan.stable} answered for it, {shown}")
    if reply.status >= 500:
        return Finding("ERROR", version, f"✗ Failing: {shown}")
    if reply.version is not None and reply.version != version:
        return Finding(
            "WARNING",
            version,
            f"? Unknown: {reply.version} answered; is {overrides.token_env} the same in the service?",
        )
    if reply.version is None:
        who = f"no {plan.version_header}" if plan.version_header else "without `version_header` in the plan nothing"
        return Finding("WARNING", version, f"? Unknown: {shown}, but {who} says who answered")
    if reply.status < 400:
        return Finding("SUCCESS", version, f"✓ Healthy, {shown}")
    if plain.status < 400:
        return Finding("ERROR", version, f"✗ Failing: {shown}, where users get {plain.status}")
    return Finding("WARNING", version, f"? Unknown: {shown}; pass a --url and --header that the service welcomes")


def _health(reply: Reply) -> str:
    if reply.status >= 500:
        return "✗ Failing"
    return "✓ Healthy" if reply.status < 400 else "? Unknown"


def probe_store(control: Control, name: str, holder: str) -> Iterator[Finding]:
    """A round trip that leaves nothing: a lease taken, found by taking it again, given back; then who follows."""
    store = control.store
    began = time.perf_counter()
    token = store.acquire(_LEASE, holder, 10.0)
    if token is None:
        yield Finding("WARNING", "store", "somebody else runs this test at the moment; writing was not tried")
    else:
        try:
            again = store.acquire(_LEASE, holder, 10.0)
        finally:
            store.release(_LEASE, holder)
        took = f"{(time.perf_counter() - began) * 1000:.1f} ms"
        if again == token:
            yield Finding("SUCCESS", "store", f"✓ {store.url} writes and reads back, {took}")
        else:
            yield Finding("ERROR", "store", f"✗ {store.url} does not read back what was written, after {took}")
    yield _followers(control, name)


def _followers(control: Control, name: str) -> Finding:
    revision = control.rollout(name).revision
    found = followers_of(control.store, name)
    behind = found.behind(revision)
    if not found.live:
        return Finding("WARNING", "workers", "none is running, or none has served a request yet")
    if behind:
        return Finding("ERROR", "workers", f"behind revision {revision}: {', '.join(behind)}")
    return Finding("SUCCESS", "workers", f"✓ {len(found.live)} of {len(found.live)} at revision {revision}")


def probe_telemetry() -> Iterator[Finding]:
    """One span, sent as the service would send it."""
    from ..telemetry.probe import NAME, deliver, wanted  # here, because no other verb needs it

    signals = wanted(os.environ)
    if not signals:
        yield Finding(
            "INFO", "telemetry", "OTEL_EXPORTER_OTLP_ENDPOINT is not set here, so nothing was sent; set it to test it"
        )
        return
    for delivery in deliver(os.environ):
        if delivery.problem:
            yield Finding("ERROR", "telemetry", f"✗ {delivery.endpoint} did not take a span: {delivery.problem}")
        else:
            sent = f"took the span {NAME!r}, {delivery.took_s * 1000:.0f} ms"
            yield Finding("SUCCESS", "telemetry", f"✓ {delivery.endpoint} {sent}")
    yield Finding("INFO", "telemetry", f"asked for: {', '.join(signals)}")
