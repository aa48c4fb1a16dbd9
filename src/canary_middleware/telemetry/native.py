"""
Whether the app below us opens server spans itself; a span of ours beside them would be a second trace.

FastAPI since 0.142 does as soon as a tracer provider exists, Starlette since 1.7 has a middleware for it, and the
contrib instrumentations wrap or subclass what they instrument.
"""

from __future__ import annotations

import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Where middlewares of either colour keep what they wrap; Starlette's stack is None until its first request.
_BELOW: Final = ("middleware_stack", "app", "wsgi_app", "wsgi", "application", "_app")
_DEEPEST: Final = 64


class Natives:
    """Remembers the answer per app object, without keeping the app alive."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[object], bool]] = {}
        # Nearly every process serves one app.
        self._last: Callable[[], object] = object
        self._last_answer = False

    def opens_spans(self, app: object, request: object) -> bool:
        """Whether *app* opens a server span for *request* (the framework's own object)."""
        if self._last() is app:
            return self._last_answer
        known = self._known.get(id(app))
        if known is not None and known[0]() is app:
            self._last, self._last_answer = known
            return known[1]
        found = opens_spans(app) or (_is_django(request) and _is_django_instrumented())
        try:
            # An id may be given again: the entry goes with its app, and is checked above in the meantime.
            self._known[id(app)] = (weakref.ref(app, partial(self._forget, id(app))), found)
        except TypeError:
            pass  # nothing can hold it weakly, so it is asked every time
        return found

    def _forget(self, key: int, _: object) -> None:
        self._known.pop(key, None)


def opens_spans(app: object) -> bool:
    """Whether a layer of *app*, from the outside in, is known to open server spans."""
    seen: set[int] = set()
    layers = [app]
    while layers and len(seen) < _DEEPEST:
        layer = layers.pop()
        if layer is None or id(layer) in seen:
            continue
        seen.add(id(layer))
        if _is_tracing(layer):
            return True
        layers.extend(getattr(layer, name, None) for name in _BELOW)
    return False


def _is_tracing(layer: Any) -> bool:  # Any: whatever an app is made of
    if getattr(layer, "_is_instrumented_by_opentelemetry", False) is True or _is_tracing_class(type(layer)):
        return True
    config = getattr(getattr(layer, "_native_telemetry", None), "config", None)
    if isinstance(config, dict) and config.get("tracing"):
        return True
    # Before the first request Starlette's middlewares are only listed.
    listed = getattr(layer, "user_middleware", ())
    return isinstance(listed, list) and any(_is_tracing_class(getattr(entry, "cls", None)) for entry in listed)


def _is_tracing_class(found: object) -> bool:
    module = getattr(found, "__module__", "")
    return getattr(found, "__name__", "") == "OpenTelemetryMiddleware" and (
        module.startswith("opentelemetry.instrumentation.") or module == "starlette.middleware.opentelemetry"
    )


def _is_django(request: object) -> bool:
    return type(request).__module__.startswith("django.")


def _is_django_instrumented() -> bool:
    """Contrib puts its middleware first in MIDDLEWARE; this matters only where ours was put before it by hand."""
    settings = getattr(sys.modules.get("django.conf"), "settings", None)
    return any("opentelemetry.instrumentation.django" in name for name in getattr(settings, "MIDDLEWARE", None) or ())
