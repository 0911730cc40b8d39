"""Numbers of the host on their way to the device, without waiting for it."""

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor


def upload(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers, or rows of them, as a tensor on `device`; the host goes on meanwhile."""
    host = _whole(values) if dtype == torch.int64 else torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def _whole(values: Sequence[Any]) -> Tensor:
    """Whole numbers, or rows of equally many: `torch.tensor` looks at each several times."""
    rows = isinstance(values[0], Sequence) if len(values) else False
    flat = array("q", chain.from_iterable(values) if rows else values)
    if not flat:
        return torch.tensor(values, dtype=torch.int64)
    host = torch.frombuffer(flat, dtype=torch.int64)
    return host.view(len(values), -1) if rows else host
