"""
What our part of a request costs, as ratios to something everybody knows, measured side by side: ``make bench``.

``figures`` lists what is measured; ``measure`` says how; the other modules hold one subject each.
"""
