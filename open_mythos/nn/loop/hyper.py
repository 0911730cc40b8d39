"""Hyper-connections: several residual streams, read and written by learned, token-wise weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.nn.norm import RMSNorm


class HyperConnections(nn.Module):
    """The dynamic hyper-connections of one layer (Zhu et al., arXiv 2409.19606).

    With the streams H (N, dim) of a position, N = `streams`, and G = norm(H):

        alpha = alpha_0 + s_a tanh(G w_a)          (N,)     what the layer reads: alpha^T H
        R     = R_0     + s_a tanh(G W_r)          (N, N)   how streams go on:    R^T H
        beta  = beta_0  + s_b tanh(G w_b)          (N,)     what the output writes: beta f^T

    and the next streams are R^T H + beta f^T. The tanh maps start at zero: a fresh layer reads the
    mean of its streams, keeps each, and adds its output to all of them.
    """

    def __init__(self, dim: int, streams: int, eps: float = 1e-6) -> None:
        """`streams` states of width `dim`; `eps` is the norm's."""
        super().__init__()
        self.dim, self.streams = dim, streams
        self.norm = RMSNorm(dim, eps)
        self.alpha = nn.Parameter(torch.full((streams,), 1.0 / streams))
        self.mix = nn.Parameter(torch.eye(streams))
        self.beta = nn.Parameter(torch.ones(streams))
        # One map of a stream for all three: alpha's entry, a row of R, beta's entry.
        self.moved = nn.Parameter(torch.zeros(streams + 2, dim))
        self.scale = nn.Parameter(torch.full((2,), 0.01))

    def read(self, h: Tensor) -> Tensor:
        """What the layer reads of streams (B, S, N * dim): (B, S, dim)."""
        states = h.unflatten(-1, (self.streams, self.dim))
        return torch.einsum("bsn,bsnd->bsd", self._weights(states)[0], states)

    def write(self, h: Tensor, f: Tensor) -> Tensor:
        """The next streams (B, S, N * dim), after the layer said `f` (B, S, dim)."""
        states = h.unflatten(-1, (self.streams, self.dim))
        _, mix, beta = self._weights(states)
        kept = torch.einsum("bsnm,bsnd->bsmd", mix, states)
        return (kept + beta.unsqueeze(-1) * f.unsqueeze(-2)).flatten(-2).to(h.dtype)

    def _weights(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alpha (B, S, N), R (B, S, N, N) and beta (B, S, N) of streams (B, S, N, dim)."""
        moved = F.linear(self.norm(states), self.moved).tanh()
        read, mix, write = moved.split((1, self.streams, 1), dim=-1)
        kind = states.dtype
        alpha = self.alpha + self.scale[0] * read.squeeze(-1)
        beta = self.beta + self.scale[1] * write.squeeze(-1)
        return alpha.to(kind), (self.mix + self.scale[0] * mix).to(kind), beta.to(kind)
