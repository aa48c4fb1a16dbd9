"""A Flask app with a view per version."""

from __future__ import annotations

from flask import Flask

from canary_middleware import handlers
from canary_middleware.flask import init_app

from .shop import Broken, canary, counts

app = Flask(__name__)


def fails() -> str:
    raise Broken


app.add_url_rule("/who", "who", handlers(lambda: "v1", lambda: "v2"))
app.add_url_rule("/fail", "fail", handlers(lambda: "v1", fails))
app.add_url_rule("/counts", "counts", counts)
init_app(app, canary)
