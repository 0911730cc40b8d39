"""Spread: how one rank's part of a training step becomes the whole step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Spread:
    """A run of one process, and what the step asks of any other kind.

    Attributes:
        data_rank: Which part of a batch's rows this rank reads.
        data_world: Into how many parts they are divided.
    """

    data_rank: int = 0
    data_world: int = 1

    def caller(self, model: nn.Module) -> Callable[..., Any]:
        """What runs a forward pass of `model`, so that its gradients meet those of other ranks."""
        return model

    def passing(self, *, last: bool) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Around one forward and backward pass; the step's last one brings the gradients home."""
        return nullcontext()

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over the parts of a batch, in place; queued on the device, not waited for."""
        return numbers
