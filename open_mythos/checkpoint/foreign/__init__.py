"""Looped models of other projects: what their config.json says, their weights by our names."""
