"""Many requests at once, each at its own depth: continuous depth-wise batching over paged caches."""
