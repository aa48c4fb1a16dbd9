"""In the process that serves: what a request meets, counts, guards, and what follows the store."""
