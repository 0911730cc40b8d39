"""Kernels that start while the one before them still runs (programmatic dependent launch).

Such a kernel may read what the one before it writes only after `gdc_wait`, which returns once that
one is complete. Every kernel here waits before it lets its successor start, so two kernels back
is always complete: what only older kernels wrote may be read at once.
"""

from functools import cache

import torch


@cache
def dependent_launch(device: torch.device) -> bool:
    """Whether `device` can launch a kernel before the one ahead has ended (from Hopper on)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9
