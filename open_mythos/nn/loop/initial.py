"""Where the loop starts: the state before the first loop."""

import math

import torch
from torch import Tensor, nn

from open_mythos.config.mythos import MythosConfig


# Odd numbers that spread neighbouring positions and channels over 64 bits, and the two multipliers
# of a well-known 64-bit mixing step (splitmix64), as signed integers: torch has no unsigned ones.
POSITION = -7046029254386353131
CHANNEL = -4417276706812531889
MIX = (-4658895280553007687, -7723592293110705685)


class InitialState(nn.Module):
    """The state before the first loop, by cfg.initial_state.

    "input": the loop's input e (open-mythos 0.5.0). "zeros". "learned": one vector for all
    positions. "noise": N(0, initial_std^2) in every channel (Huginn, arXiv 2502.05171), so that
    training teaches the loop to forget where it started. While training the noise is torch's own;
    in evaluation it is a fixed function of position and channel: what a prompt says must not depend
    on how it was cut, cached or batched.
    """

    def __init__(self, cfg: MythosConfig) -> None:
        """Read `initial_state` and `initial_std` of the config."""
        super().__init__()
        self.kind, self.std = cfg.initial_state, cfg.initial_std
        self.vector = nn.Parameter(torch.zeros(cfg.dim)) if self.kind == "learned" else None

    def forward(self, e: Tensor, where: Tensor) -> Tensor:
        """The state (B, S, dim) beside the input `e`; `where` (S,) or (B, S) int64, positions.

        A copy or a constant that hangs on `e` in the autograd graph, as later states do: a
        compiled loop would otherwise need another graph for its first turn.
        """
        if self.kind == "input":
            return e.clone()
        if self.vector is not None:
            start = self.vector.to(e.dtype).expand_as(e)
        elif self.kind == "zeros":
            start = torch.zeros_like(e)
        elif self.training:
            start = torch.randn_like(e) * self.std
        else:
            start = (position_noise(where, e.shape[-1]) * self.std).to(e.dtype).expand_as(e)
        never = torch.zeros((), dtype=torch.bool, device=e.device)
        return torch.where(never, e, start)


def position_noise(where: Tensor, dim: int) -> Tensor:
    """Standard normal numbers (..., dim) that depend on position and channel alone.

    Args:
        where: (...) int64, positions.
        dim: Channels.
    """
    channels = torch.arange(dim, device=where.device)
    x = where.to(torch.int64).unsqueeze(-1) * POSITION + channels * CHANNEL
    for multiplier, shift in zip((*MIX, 1), (30, 27, 31), strict=True):
        # A logical shift: torch's own one drags the sign along.
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    wide = torch.float32 if where.device.type == "mps" else torch.float64
    radius = ((x >> 40) & ((1 << 24) - 1)).to(wide).add(0.5).div(1 << 24)
    angle = (x & ((1 << 24) - 1)).to(wide).div(1 << 24)
    return ((-2.0 * radius.log()).sqrt() * (2.0 * math.pi * angle).cos()).float()
