"""Weights and configs on disk: safetensors and JSON, atomic, checksummed; and the old formats in."""
