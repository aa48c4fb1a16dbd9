"""The judge in simulated rollouts, and other rules on the same traffic: ``python -m tests.benchmarks.judge``."""
