"""LossScale: what a float16 loss is multiplied by, so that its gradients stay in range."""

from dataclasses import dataclass

import torch
from torch import Tensor


START = 2.0**16
GROWTH = 2.0
BACKOFF = 0.5
INTERVAL = 2000
# Below one the loss would be shrunk: what still overflows there is not for a scale to mend.
FLOOR = 1.0


@dataclass
class LossScale:
    """A power of two that is halved at each overflow and doubled after 2000 steps without one.

    The rules and numbers are those of torch.amp.GradScaler, which may fall below one, asks the host
    whether to step, and saves what its host last knew. Here both numbers stay on the device and are
    saved from there. Powers of two cost no rounding, in either direction.

    Attributes:
        scale: What the loss is multiplied by; a float32 scalar.
        calm: Steps since the scale last changed; an int32 scalar.
    """

    scale: Tensor
    calm: Tensor

    @classmethod
    def start(cls, device: torch.device) -> "LossScale":
        """The scale before the first step."""
        return cls(
            torch.full((), START, dtype=torch.float32, device=device),
            torch.zeros((), dtype=torch.int32, device=device),
        )

    @torch.no_grad()
    def settle(self, finite: Tensor) -> None:
        """Learn whether this step's gradients were finite; once a step, on every rank alike."""
        due = finite & (self.calm + 1 >= INTERVAL)
        grown = self.scale * GROWTH
        grown = torch.where(grown.isfinite(), grown, self.scale)
        fallen = (self.scale * BACKOFF).clamp(min=FLOOR)
        self.scale = torch.where(finite, torch.where(due, grown, self.scale), fallen)
        self.calm = torch.where(finite & ~due, self.calm + 1, 0)
