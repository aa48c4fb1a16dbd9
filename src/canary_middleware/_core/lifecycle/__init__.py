"""A rollout's record, and the moves it may make."""
