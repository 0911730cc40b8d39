"""Many requests at once, each at its own depth: depth-wise batching, paged caches."""
