"""
The API described for programs: OpenAPI 3.1, made of the same table that answers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .routes import Look, Verb

_TEXT: Final = {"type": "string"}
_QUERY: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "rollout": (_TEXT, "its name; may be left out where there is only one"),
    "endpoint": (_TEXT, "a route template, as /checkout/{basket}"),
    "raw": ({"type": "boolean"}, "plain numbers: rates as fractions, times in ms"),
    "limit": ({"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}, "how many lines, newest first"),
    "user": (_TEXT, "the identity that is asked about"),
}
_MEMBERS: Final[dict[str, dict[str, Any]]] = {
    "weight": {"type": "number", "minimum": 0, "maximum": 100, "description": "percent, at most four decimals"},
    "to_previous": {"type": "boolean", "default": False, "description": "one stage down instead of to 0"},
    "state": {"type": "string", "enum": ["on", "off"], "default": "on"},
    "severity": {"type": "string", "enum": ["severe", "minor"], "description": "only severe ones count against limits"},
    "text": {"type": "string", "maxLength": 1000, "description": "what somebody saw"},
    "rollout": {"type": "string", "description": _QUERY["rollout"][1]},
    "reason": {"type": "string", "maxLength": 1000, "description": "why, for the audit trail"},
    "revision": {"type": "integer", "minimum": 0, "description": "what the decision was made on, from GET status"},
    "wait": {
        "type": "number",
        "minimum": 0,
        "default": 0,
        "description": "seconds to wait, at most 5, until every live worker serves the change",
    },
}
_WITHOUT_REVISION: Final = frozenset({"/pause", "/rollback", "/emergency", "/bug", "/feedback"})
_ERRORS: Final = {
    "400": "something is wrong with the request; says what would be right",
    "401": "no token, or a wrong one",
    "403": "may look, and not change anything; or the page of another site",
    "405": "another method",
    "500": "the service's log says more",
    "503": "the store cannot be reached",
}
_VERB_ERRORS: Final = {
    "409": "somebody else changed it first; says who and what",
    "411": "the server cannot tell where the body ends; send Content-Length",
    "413": "the body is too long",
    "415": "the body is no application/json",
    "422": "the rollout's phase does not allow it; says what would",
}


def document(looks: Mapping[str, Look], verbs: Mapping[str, Verb]) -> dict[str, Any]:
    """The OpenAPI document of the API; paths are below wherever it is mounted."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "canary-middleware admin API", "version": _version()},
        "security": [{"bearer": []}],
        "paths": {
            **{path: {"get": _look(path, look)} for path, look in looks.items()},
            **{path: {"post": _verb(path, verb)} for path, verb in verbs.items()},
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Problem": {
                    "type": "object",
                    "description": "RFC 9457",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": _TEXT,
                        "title": _TEXT,
                        "status": {"type": "integer"},
                        "detail": _TEXT,
                    },
                }
            },
        },
    }


def _look(path: str, look: Look) -> dict[str, Any]:
    return {
        "operationId": path.strip("/"),
        "summary": _summary(look.answer),
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": name == "user",
                "schema": _QUERY[name][0],
                "description": _QUERY[name][1],
            }
            for name in look.query
        ],
        "responses": _responses(_ERRORS if path != "/metrics" else {**_ERRORS, "404": "no such endpoint"}),
    }


def _verb(path: str, verb: Verb) -> dict[str, Any]:
    members = verb.members
    required: list[str] = [name for name in ("weight", "severity", "text") if name in members]
    if path not in _WITHOUT_REVISION:
        required.append("revision")
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _MEMBERS[name] for name in members},
        "required": required,
    }
    return {
        "operationId": path.strip("/"),
        "summary": _summary(verb.carry_out),
        "requestBody": {"required": bool(required), "content": {"application/json": {"schema": schema}}},
        "responses": {
            **_responses({**_ERRORS, **_VERB_ERRORS}),
            "202": {"description": "in force in the answering worker, and owed to a store that is away"},
        },
    }


def _responses(errors: Mapping[str, str]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "200": {"description": "done", "content": {"application/json": {}}},
        **{status: {"description": text, "content": problem} for status, text in sorted(errors.items())},
    }


def _summary(function: Any) -> str:  # Any: any documented function
    return str(function.__doc__).strip()


def _version() -> str:
    try:
        return version("canary-middleware")
    except PackageNotFoundError:  # run from a checkout
        return "0"
