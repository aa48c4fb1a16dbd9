"""One rollout behind every front door, with the admin API below ``/admin/canary``; CANARY_STORE says where it lives."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from flask import Flask

from canary_middleware import Canary, admin, asgi, by_header, handlers, wsgi
from canary_middleware.fastapi import CanaryMiddleware
from canary_middleware.flask import init_app

PATH = "/admin/canary"
canary = Canary("checkout", key=[by_header("x-user-id")], stages=[10, {"weight": 50, "approve": True}, 100], bake="1h")


def _wsgi(name: str) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [name.encode()]

    return app


def _asgi(name: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # how an app says that it has no lifespan
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": name.encode()})

    return app


wsgi_app = wsgi.CanaryMiddleware(wsgi.apps(_wsgi("v1"), _wsgi("v2")), canary=canary, admin=PATH)
asgi_app = asgi.CanaryMiddleware(asgi.apps(_asgi("v1"), _asgi("v2")), canary=canary, admin=PATH)

flask_app = Flask(__name__)
flask_app.add_url_rule("/", "shop", handlers(lambda: "v1", lambda: "v2"))
init_app(flask_app, canary, admin=PATH)


async def one() -> str:
    return "v1"


async def two() -> str:
    return "v2"


fastapi_app = FastAPI(default_response_class=PlainTextResponse)
fastapi_app.get("/")(handlers(one, two))
fastapi_app.mount("/by-hand", admin.asgi_app(canary))
fastapi_app.add_middleware(CanaryMiddleware, canary=canary, admin=PATH)
