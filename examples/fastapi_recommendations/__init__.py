"""A recommendation API on FastAPI: popular items (v1) and personalised ones (v2) in one process."""
