"""What differs between loops: the loop-index signal and the per-loop low-rank adapter."""

import torch
from torch import Tensor, nn

from open_mythos.errors import InputError
from open_mythos.nn.linear import Linear
from open_mythos.nn.watched import patched
from open_mythos.ops.few import onto, overwritable


def loop_signals(
    n_loops: int,
    loop_dim: int,
    dim: int,
    theta: float = 10000.0,
    *,
    first: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """The signals (n_loops, dim) of loops `first`, `first` + 1, ...

    Sines, then cosines, in the leading `loop_dim` channels. In float64 where the device has it:
    float32 sines differ between devices in the last bit.
    """
    mps = device is not None and device.type == "mps"
    wide = torch.float32 if mps else torch.float64
    steps = torch.arange(0, loop_dim, 2, device=device, dtype=wide)
    loops = torch.arange(first, first + n_loops, device=device, dtype=wide)
    angles = loops.unsqueeze(-1) * theta ** -(steps / max(loop_dim, 1))
    signal = torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :loop_dim]
    return torch.cat((signal, signal.new_zeros(n_loops, dim - loop_dim)), dim=-1)


def loop_index_embedding(h: Tensor, loop_t: int, loop_dim: int, theta: float = 10000.0) -> Tensor:
    """Tell the block which loop it is in: add a sinusoid of the loop number to `h`.

    Args:
        h: (B, S, dim).
        loop_t: The loop, from 0.
        loop_dim: Leading channels that carry the signal, at most dim.
        theta: Base of the frequencies.

    Raises:
        InputError: If `loop_dim` exceeds the width of `h`.
    """
    if not 0 <= loop_dim <= h.shape[-1]:
        raise InputError(f"loop_dim is {loop_dim}; it must lie in 0 .. {h.shape[-1]}")
    signal = loop_signals(1, loop_dim, h.shape[-1], theta, first=loop_t, device=h.device)
    return h + signal[0].to(h.dtype)


class LoRAAdapter(nn.Module):
    """(down(x) * scale[t]) @ B: shared low-rank maps, one scale vector per loop.

    After relaxed recursive transformers (Bae et al., arXiv 2410.20672), with the loops' own part
    reduced to the scale.
    """

    def __init__(self, dim: int, rank: int, max_loops: int) -> None:
        """Rank `rank` on width `dim`; `max_loops` scale vectors."""
        super().__init__()
        self.down = Linear(dim, rank)
        self.B = nn.Parameter(torch.randn(rank, dim) * 0.02)
        self.scale = nn.Embedding(max_loops, rank)

    def row(self, loop_t: int) -> Tensor:
        """The scale (rank,) of loop `loop_t`; loops past the table use its last row."""
        scale: Tensor = self.scale.weight[min(loop_t, self.scale.num_embeddings - 1)]
        return scale

    def forward(self, x: Tensor, loop_t: int = 0, *, scale: Tensor | None = None) -> Tensor:
        """The correction (B, S, dim) of loop `loop_t`, or of the row (rank,) known for it."""
        scale = self.row(loop_t) if scale is None else scale
        delta: Tensor = (self.down(x) * scale) @ self.B
        return delta

    def onto(self, x: Tensor, scale: Tensor) -> Tensor:
        """The sum of x and its correction (B, S, dim), taken by the product itself.

        `x` is overwritten where no gradient is asked for: it must be the caller's own.
        """
        if patched(self):
            watched: Tensor = x + self(x, scale=scale)
            return watched
        narrow = (self.down(x) * scale).flatten(0, -2)
        if overwritable(x, narrow, self.B):
            return onto(x, narrow, self.B)
        return torch.addmm(x.flatten(0, -2), narrow, self.B).view(x.shape)
