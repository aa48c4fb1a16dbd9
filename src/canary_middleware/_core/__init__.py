"""The decisions: standard library only, no I/O, thread, randomness, logging or environment; clocks are handed in."""
