"""
The judge: whether what was seen of a canary is reason to roll it back, to promote it, or neither.

Pure and deterministic: fed with ticks, asked for a finding, its state is plain data.
"""
