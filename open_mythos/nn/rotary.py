"""Rotary tables: angles of positions, made when needed, never stored with the weights.

Nothing here is a buffer: the tables are float32 whatever dtype the model is cast to, and a
million-position preset pays only for the positions of the call.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.errors import InputError, ShapeError
from open_mythos.ops.rows import rotate_heads


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of a call's positions: (S, d/2), or (B, S, d/2) where rows differ."""

    cos: Tensor
    sin: Tensor

    def last(self, count: int) -> "Rotary":
        """Those of the last `count` positions, all if there are fewer."""
        return Rotary(self.cos[..., -count:, :], self.sin[..., -count:, :])

    def turn(self, x: Tensor) -> Tensor:
        """Rotate (B, S, H, d) queries or keys."""
        return rotate_heads(x, self.cos, self.sin)


def rotary(positions: Tensor, dim: int, theta: float) -> Rotary:
    """Tables for integer `positions` (S,) or (B, S) and a rotated width of `dim`.

    Angles are formed in float64 where the device has it: in float32 a position near a million
    would be off by 0.06 radian.
    """
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    exponent = torch.arange(0, dim, 2, dtype=wide, device=positions.device) / dim
    angles = positions.to(wide).unsqueeze(-1) * theta**-exponent
    return Rotary(angles.cos().float(), angles.sin().float())


def precompute_rope_freqs(dim: int, max_len: int, theta: float = 500000.0) -> Tensor:
    """Phasors exp(i * position * frequency) of positions 0 .. max_len - 1.

    Returns:
        complex64 (max_len, dim // 2).

    Raises:
        InputError: If `dim` is odd or a size is not positive.
    """
    if dim < 2 or dim % 2:
        raise InputError(f"dim is {dim}; RoPE rotates pairs of channels, so it must be even")
    if max_len < 1:
        raise InputError(f"max_len is {max_len}; it must be at least 1")
    tables = rotary(torch.arange(max_len), dim, theta)
    return torch.complex(tables.cos, tables.sin)


def rotary_from_complex(freqs_cis: Tensor, length: int) -> Rotary:
    """The first `length` rows of a complex table, as real tables.

    Raises:
        ShapeError: If the table is shorter than that.
    """
    if freqs_cis.shape[0] < length:
        raise ShapeError(
            f"the rotary table has {freqs_cis.shape[0]} positions, the input {length}; "
            "make a longer one with precompute_rope_freqs"
        )
    return Rotary(freqs_cis[:length].real.float(), freqs_cis[:length].imag.float())


def apply_rope(x: Tensor, freqs_cis: Tensor) -> Tensor:
    """Rotate `x` (B, T, H, d) by the first T rows of a complex table (>= T, d // 2).

    Raises:
        ShapeError: If the table has fewer rows than T, or another width than d // 2.
    """
    if x.shape[-1] != 2 * freqs_cis.shape[-1]:
        raise ShapeError(
            f"the rotary table turns {2 * freqs_cis.shape[-1]} channels, "
            f"the input has {x.shape[-1]}"
        )
    return rotary_from_complex(freqs_cis, x.shape[1]).turn(x)
