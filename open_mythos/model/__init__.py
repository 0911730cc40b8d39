"""Whole networks: single device, pure; what a pass learnt is returned, never kept."""
