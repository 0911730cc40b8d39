"""Weights and configs on disk: safetensors and JSON, atomic, checksummed; old formats in."""
