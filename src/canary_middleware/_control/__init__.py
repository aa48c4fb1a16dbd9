"""Whoever decides for all processes: the controller, its evidence, and where its figures come from."""
