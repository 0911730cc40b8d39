"""RouterBalance: keeps experts evenly used while transformers' Trainer trains."""

from typing import Any

import torch
from transformers import TrainerCallback

from open_mythos.errors import InputError


class RouterBalance(TrainerCallback):  # type: ignore[misc]
    """Steps the router's biases after each optimizer step, as this library's own trainer does.

    Without it the experts of a network with a mixture are used as unevenly as they please.

    Attributes:
        step_size: How far a bias moves per step.
    """

    def __init__(self, step_size: float = 0.001) -> None:
        """Move by `step_size`.

        Raises:
            InputError: If that is negative.
        """
        if step_size < 0.0:
            raise InputError(f"step_size is {step_size}; it must not be negative")
        self.step_size = step_size

    @torch.no_grad()
    def on_step_end(
        self,
        args: Any,  # noqa: ARG002 -- transformers' call form
        state: Any,  # noqa: ARG002
        control: Any,  # noqa: ARG002
        model: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """After an optimizer step, whatever wraps the network."""
        inner = next(m for m in model.modules() if hasattr(m, "update_router_bias"))
        inner.update_router_bias(self.step_size)
