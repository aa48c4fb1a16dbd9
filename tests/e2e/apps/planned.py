"""Apps of both colours whose plan is a file that is edited while they run. PLAN_FILE in the environment says which."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from canary_middleware import Canary, asgi, wsgi

if TYPE_CHECKING:
    from collections.abc import Callable

canary = Canary.load(os.environ["PLAN_FILE"])


def answer(name: str) -> bytes:
    """Which version, which process, and where it stands."""
    rollout = canary.rollout("shop")
    said = {"version": name, "pid": os.getpid(), "phase": rollout.phase, "reason": rollout.phase_reason}
    return json.dumps({**said, "salt": rollout.plan.salt, "problem": canary.plan_problem}).encode()


def _wsgi(name: str) -> Callable[[Any, Any], Any]:
    def app(environ: Any, start_response: Any) -> Any:
        body = answer(name)
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return app


def _asgi(name: str) -> Callable[[Any, Any, Any], Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer(name)})

    return app


wsgi_app = wsgi.CanaryMiddleware(wsgi.apps(_wsgi("v1"), _wsgi("v2")), canary=canary)
asgi_app = asgi.CanaryMiddleware(asgi.apps(_asgi("v1"), _asgi("v2")), canary=canary)
