"""``python -m examples.demo``: one app, two versions, real requests, and what its telemetry says."""
