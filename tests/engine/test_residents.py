"""Requests that stay on the device, against `model.generate` for each alone."""
