"""
Every name that we send. Dashboards, alerts and the collectors' rules rely on them: changing one is a breaking change.

Those of other vocabularies come from OpenTelemetry's semantic conventions: HTTP 1.23, database 1.28, feature flags
1.34.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "canary_middleware"
"""Instrumentation scope; its version is the package's."""

# -- on every span and log record of a request
VERSION: Final = "canary.version"
ROLLOUT: Final = "canary.rollout"

# -- on the request's server span
ASSIGNMENT_REASON: Final = "canary.assignment.reason"
FLAG_KEY: Final = "feature_flag.key"
FLAG_VARIANT: Final = "feature_flag.result.variant"
FLAG_REASON: Final = "feature_flag.result.reason"
FLAG_PROVIDER: Final = "feature_flag.provider.name"
FLAG_VERSION: Final = "feature_flag.version"
FLAG_CONTEXT_ID: Final = "feature_flag.context.id"
DB_COUNT: Final = "canary.db.operation.count"
DB_DURATION: Final = "canary.db.duration"
CACHE_HITS: Final = "canary.cache.hits"
CACHE_MISSES: Final = "canary.cache.misses"

FLAG_REASONS: Final = {
    "weight": "split",
    "segment": "targeting_match",
    "user": "targeting_match",
    "override": "targeting_match",
    "forced": "targeting_match",
    "emergency": "disabled",
    "disabled": "disabled",
    "rolled_back": "disabled",
    "no_identity": "default",
    "uncovered": "default",
    "unknown": "default",
    "retired": "static",
    "fallback": "error",
    "error": "error",
}
"""Our reasons in the words of the feature flag conventions."""

# -- events
FALLBACK_EVENT: Final = "canary.fallback"
FLAG_EVENT: Final = "feature_flag.evaluation"

# -- instruments
REQUEST_DURATION: Final = "canary.server.request.duration"
ACTIVE_REQUESTS: Final = "canary.server.active_requests"
ABORTED_REQUESTS: Final = "canary.requests.aborted"
ASSIGNMENTS: Final = "canary.assignments"
ROLLOUT_WEIGHT: Final = "canary.rollout.weight"
ROLLOUT_REVISION: Final = "canary.rollout.revision"
SNAPSHOT_AGE: Final = "canary.rollout.snapshot.age"
FALLBACKS: Final = "canary.fallbacks"
FALLBACKS_MISSED: Final = "canary.fallbacks.missed"
INTERNAL_ERRORS: Final = "canary.internal.errors"
DB_OPERATION_DURATION: Final = "canary.db.operation.duration"
CACHE_OPERATIONS: Final = "canary.cache.operations"
HTTP_REQUEST_DURATION: Final = "http.server.request.duration"

# -- attributes of metrics
REASON: Final = "canary.assignment.reason"
FALLBACK_REASON: Final = "canary.fallback.reason"
COMPONENT: Final = "canary.component"
CACHE_RESULT: Final = "canary.cache.result"
OVERFLOW: Final = "otel.metric.overflow"

ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
HTTP_METHOD: Final = "http.request.method"
HTTP_METHOD_ORIGINAL: Final = "http.request.method_original"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
CLIENT_ADDRESS: Final = "client.address"
USER_AGENT: Final = "user_agent.original"
PROTOCOL_NAME: Final = "network.protocol.name"
PROTOCOL_VERSION: Final = "network.protocol.version"
DB_SYSTEM: Final = "db.system.name"
DB_SYSTEM_OLD: Final = "db.system"
DB_OPERATION: Final = "db.operation.name"
DB_OPERATION_OLD: Final = "db.operation"
INSTANCE_ID: Final = "service.instance.id"
PROCESS_ID: Final = "process.pid"

OTHER_METHOD: Final = "_OTHER"
KNOWN_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)
"""Methods that may be a label; any other is ``_OTHER``."""

DB_BOUNDS_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""Bucket bounds of the database histogram, seconds: those of ``db.client.operation.duration``."""
