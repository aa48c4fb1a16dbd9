"""Flask: ``init_app(app, canary)``. Everything else is the WSGI door's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click

try:
    from flask import got_request_exception, request, request_started
except ModuleNotFoundError as missing:
    if missing.name != "flask":
        raise
    raise ModuleNotFoundError(
        "canary_middleware.flask needs Flask, which is not installed: pip install canary-middleware[flask]",
        name="flask",
    ) from missing
from werkzeug.wrappers import Request

from ._core.exchange import Exchange, active
from .errors import ConfigError
from .wsgi import CanaryMiddleware, WsgiHead

if TYPE_CHECKING:
    from flask import Flask

    from ._core.lifecycle.rollout import Assignment
    from .admin import Admin
    from .canary import Canary


class FlaskHead(WsgiHead):
    """A WSGI environ of which Flask knows the session."""

    owner: Any  # the Flask application

    @property
    def native(self) -> object:
        # Shallow: a key function that reads the body gets an error, and the app gets its body.
        return Request(self.environ, populate_request=False, shallow=True)

    def session(self, name: str | None) -> str | None:
        # Opened here, before Flask routes the request: which route it takes may depend on it. Read, never saved.
        session = self.owner.session_interface.open_session(self.owner, self.owner.request_class(self.environ))
        if session is None:
            return None
        value = getattr(session, "sid", None) or session.get("_id") if name is None else session.get(name)
        return None if value is None else str(value)

    def user(self) -> str | None:
        return self.session("_user_id") or super().user()  # Flask-Login's key


class _Middleware(CanaryMiddleware):
    head = FlaskHead


def _assigned(_: object) -> Assignment:
    exchange = active.get()
    if exchange is None:
        raise AttributeError("g.canary is there in requests only; outside of one ask canary.version_for(identity)")
    return exchange.assignment


def init_app(
    app: Flask, canary: Canary, *, rewrite: dict[str, str] | None = None, admin: str | Admin | None = None
) -> None:
    """
    Run *app*'s requests under *canary*; ``flask.g.canary`` is each request's Assignment.

    Args:
        rewrite: version → path prefix, where the versions are prefixes of one app.
        admin: the path of the admin API, as ``"/admin/canary"``, or an ``admin.Admin``; None leaves it off.
    """
    if "canary" in app.extensions:
        raise ConfigError(f"{app!r} runs under a Canary already: call init_app once, with a plan of several rollouts")
    app.wsgi_app = _Middleware(  # type: ignore[method-assign]
        app.wsgi_app, canary=canary, rewrite=rewrite, owner=app, admin=admin
    )
    # A property, so that requests that never look at g.canary do not pay for it.
    base = app.app_ctx_globals_class
    app.app_ctx_globals_class = cast("Any", type("_Globals", (base,), {"canary": property(_assigned)}))
    got_request_exception.connect(_raised, app)
    request_started.connect(_matched, app)
    app.extensions["canary"] = canary
    app.cli.add_command(_command(canary))


def _command(canary: Canary) -> click.Command:
    """``flask canary <verb>``: the command line, on this Canary's store and plan."""

    def run(words: tuple[str, ...]) -> None:
        from .cli import Host, main  # here, because servers need no command line

        main.main(args=list(words), prog_name="flask canary", obj=Host(canary.store, canary.plan))

    return click.Command(
        "canary",
        callback=run,
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        # --help and all other options are the verb's own.
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        add_help_option=False,
        short_help="Steer rollouts: status, set, rollback and so on.",
    )


def _matched(_app: Flask, **_: Any) -> None:
    """Note the route's template while Flask's request is there: it is gone from the environ when the app returns."""
    exchange = active.get()
    if isinstance(exchange, Exchange) and request.url_rule is not None:
        exchange.route = request.url_rule.rule


def _raised(_app: Flask, exception: BaseException, **_: Any) -> None:
    """Flask turns exceptions into answers before they reach us; this is what the answer was made of."""
    exchange = active.get()
    if isinstance(exchange, Exchange) and not exchange.has_ended:
        exchange.error_type = type(exception).__qualname__
