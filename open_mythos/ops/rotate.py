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
    wide = (x if x.dtype == torch.float64 else x.float()).unflatten(-1, (-1, 2))
    # (a, b) -> (a, b) cos + (b, a) (-sin, sin): forward and backward read along the row, where
    # taking the pairs apart made a compiled backward 8 times slower than memory allows (H200).
    across = torch.stack((-sin, sin), dim=-1).unsqueeze(-3)
    turned: Tensor = wide * cos.unsqueeze(-2).unsqueeze(-1) + wide.flip(-1) * across
    return turned.flatten(-2).to(x.dtype)
