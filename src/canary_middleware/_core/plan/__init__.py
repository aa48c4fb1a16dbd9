"""The plan: one rollout's settings as written, read, checked and compared."""
