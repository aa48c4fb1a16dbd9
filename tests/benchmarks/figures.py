"""The figures that the README states: what is compared with what, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Signal = Literal["traces", "metrics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """
    One row of the report.

    Attributes:
        name: for ``--only``.
        title, peer: what is measured, and what it is compared with.
        subject: ``module:function`` of this package, called in fresh interpreters.
        target: highest ratio, or with unit ``bytes`` the highest value; None where a row only informs.
        unit: ``×`` for a ratio to the peer, ``bytes`` for a value per request.
        signals: what ``configure_telemetry()`` finds wanted; empty is no telemetry.
        sampler: ``OTEL_TRACES_SAMPLER`` for our spans; the peer's are always sampled.
    """

    name: str
    title: str
    peer: str
    subject: str
    target: float | None
    unit: Literal["×", "bytes"] = "×"
    signals: tuple[Signal, ...] = ()
    sampler: str = "always_on"


_CONTRIB_ASGI: Final = "contrib asgi, metrics + one span"
_CONTRIB_WSGI: Final = "contrib wsgi, metrics + span"
_LIVE: Final = "0 for ever-new users and paths"
# A leak holds on to a reference at least, eight bytes; what rounds to 0 is a histogram's next bucket.
_NO_BYTES: Final = 0.5

FIGURES: Final = (
    Figure(
        name="decision",
        title="Decision, hash included",
        peer="int(md5(u).hexdigest(), 16) % 100, u as bytes",
        subject="decision:by_hash",
        target=1.0,
    ),
    Figure(
        name="decision-str",
        title="The same, where u is text on both sides",
        peer="int(md5(u.encode()).hexdigest(), 16) % 100",
        subject="decision:by_hash_of_text",
        target=None,
    ),
    Figure(
        name="endpoints",
        title="Endpoint match + decision, 10,000 templates",
        peer="the same with 10 templates",
        subject="decision:by_endpoint",
        target=1.5,
    ),
    Figure(
        name="asgi",
        title="ASGI, whole path, no telemetry",
        peer="pass-through: clock twice, send wrapped",
        subject="asgi_path:whole",
        target=3.5,
    ),
    Figure(
        name="asgi-guarded",
        title="ASGI, whole path, watched by three guardrails",
        peer="the same without guardrails",
        subject="asgi_path:guarded",
        target=1.10,
    ),
    Figure(
        name="asgi-metrics",
        title="ASGI, metrics only",
        peer=_CONTRIB_ASGI,
        subject="telemetry:asgi_requests",
        target=0.10,
        signals=("metrics",),
    ),
    Figure(
        name="asgi-span",
        title="ASGI, metrics + our span, always on",
        peer=_CONTRIB_ASGI,
        subject="telemetry:asgi_requests",
        target=0.25,
        signals=("metrics", "traces"),
    ),
    Figure(
        name="asgi-exported",
        title="The same, encoding and sending included",
        peer=_CONTRIB_ASGI,
        subject="telemetry:asgi_exported",
        target=None,
        signals=("metrics", "traces"),
    ),
    Figure(
        name="asgi-unsampled",
        title="ASGI, metrics + our span, unsampled",
        peer=_CONTRIB_ASGI + ", sampled",
        subject="telemetry:asgi_requests",
        target=0.08,
        signals=("metrics", "traces"),
        sampler="always_off",
    ),
    Figure(
        name="wsgi-span",
        title="WSGI, metrics + our span, always on",
        peer=_CONTRIB_WSGI,
        subject="telemetry:wsgi_requests",
        target=0.30,
        signals=("metrics", "traces"),
    ),
    Figure(
        name="flask",
        title="Flask, a page of ten",
        peer="bare app",
        subject="frameworks:flask",
        target=1.10,
    ),
    Figure(
        name="flask-metrics",
        title="Flask, a page of ten, with metrics",
        peer="bare app",
        subject="frameworks:flask",
        target=1.10,
        signals=("metrics",),
    ),
    Figure(
        name="flask-tiny", title="Flask, one tiny object", peer="bare app", subject="frameworks:flask_tiny", target=None
    ),
    Figure(
        name="django",
        title="Django, a page of ten",
        peer="bare app",
        subject="frameworks:django",
        target=1.12,
    ),
    Figure(
        name="django-metrics",
        title="Django, a page of ten, with metrics",
        peer="bare app",
        subject="frameworks:django",
        target=1.12,
        signals=("metrics",),
    ),
    Figure(
        name="django-tiny",
        title="Django, one tiny object",
        peer="bare app",
        subject="frameworks:django_tiny",
        target=None,
    ),
    Figure(
        name="starlette", title="Starlette, a page of ten", peer="bare app", subject="frameworks:starlette", target=1.20
    ),
    Figure(
        name="starlette-metrics",
        title="Starlette, a page of ten, with metrics",
        peer="bare app",
        subject="frameworks:starlette",
        target=1.20,
        signals=("metrics",),
    ),
    Figure(
        name="starlette-tiny",
        title="Starlette, one tiny object",
        peer="bare app",
        subject="frameworks:starlette_tiny",
        target=None,
    ),
    Figure(
        name="memory-asgi",
        title="Live memory per request, ASGI with metrics",
        peer=_LIVE,
        subject="memory:asgi_live",
        target=_NO_BYTES,
        unit="bytes",
        signals=("metrics",),
    ),
    Figure(
        name="memory-wsgi",
        title="Live memory per request, WSGI, metrics + spans",
        peer=_LIVE,
        subject="memory:wsgi_live",
        target=_NO_BYTES,
        unit="bytes",
        signals=("metrics", "traces"),
        sampler="always_off",
    ),
    Figure(
        name="import",
        title="from canary_middleware import Canary",
        peer="bare interpreter",
        subject="imports:cold",
        target=4.0,
    ),
)
