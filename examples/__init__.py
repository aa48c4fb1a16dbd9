"""One small real app per framework, and the demo that drives one of them."""
