"""Spikes: which gradient norms are so far above the usual that their step is better left out."""

from dataclasses import dataclass

import torch
from torch import Tensor


# Steps of which nothing is judged: norms fall by orders of magnitude at the start of a run.
SETTLE = 50
# Weight of a new norm in the running mean, once that rests on as many as its inverse.
SHARE = 0.01


@dataclass
class Spikes:
    """A running mean of gradient norms, on the device.

    What is above the bound enters the mean as the bound: one spike hardly moves it, while a norm
    that stays high raises it until steps are taken again, so that no run is locked out.

    Attributes:
        mean: Of the norms before clipping; a float32 scalar.
        seen: Finite norms so far; an int32 scalar.
    """

    mean: Tensor
    seen: Tensor

    @classmethod
    def start(cls, device: torch.device) -> "Spikes":
        """Before the first step."""
        return cls(
            torch.zeros((), dtype=torch.float32, device=device),
            torch.zeros((), dtype=torch.int32, device=device),
        )

    @torch.no_grad()
    def calm(self, norm: Tensor, factor: float) -> Tensor:
        """Whether a norm is at most `factor` times the mean of those before it; learns from it.

        A norm that is not finite teaches nothing, and is not calm.
        """
        finite, bound = norm.isfinite(), factor * self.mean
        early = self.seen < SETTLE
        calm = finite & (early | (norm <= bound))
        share = (1.0 / (self.seen + 1)).clamp(min=SHARE)
        counted = torch.where(early, norm, norm.minimum(bound))
        mean = self.mean + share * (counted - self.mean)
        self.mean = torch.where(finite, mean, self.mean).float()
        self.seen = self.seen + finite.int()
        return calm
