"""Rotary position: turn each pair of adjacent channels by its position's angle."""

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries or keys (Su et al. 2021, interleaved pairs).

    Args:
        x: (B, S, H, d), d even.
        cos: (S, d/2) or (B, S, d/2), float32.
        sin: As `cos`.

    Returns:
        As `x`. 16-bit inputs are rotated in float32: the angle's cosine near 1 has no room in
        8 bits of mantissa.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    a, b = wide.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
