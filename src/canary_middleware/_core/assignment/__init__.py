"""Who gets which version, and why."""
