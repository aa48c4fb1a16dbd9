"""A FastAPI app with a route per version."""

from __future__ import annotations

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from canary_middleware import handlers
from canary_middleware.fastapi import CanaryMiddleware

from .shop import Broken, canary, counts

app = FastAPI(default_response_class=PlainTextResponse)


async def one() -> str:
    return "v1"


async def two() -> str:
    return "v2"


async def fails() -> str:
    raise Broken


app.api_route("/who", methods=["GET", "HEAD"])(handlers(one, two))
app.api_route("/fail", methods=["GET", "HEAD", "PUT"])(handlers(one, fails))


@app.get("/counts")
def tell_counts() -> Response:
    return Response(counts())


app.add_middleware(CanaryMiddleware, canary=canary)
