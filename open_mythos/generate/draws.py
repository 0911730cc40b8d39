"""Draws: `rows.choose` of rows whose wishes lie on the device, where no host is between tokens."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.generate.noise import exponentials_of
from open_mythos.ops.sample import LEAST_TEMPERATURE, largest


@dataclass(frozen=True)
class Wishes:
    """What rows ask that want nothing but temperature and filters, (B,) each.

    Attributes:
        temperature: float32; 0 takes the largest.
        top_k: int64; 0 keeps all.
        top_p: float32; 1 keeps all.
        min_p: float32; 0 keeps all.
        names: (B, 5) int64, of the draws, as `noise.named` makes them.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    names: Tensor


def choose_by(logits: Tensor, wishes: Wishes | None, *, filters: bool = True) -> Tensor:
    """The next token of each row, (B,) int64, by the rules and the draws of `rows.choose`.

    Args:
        logits: (B, vocab).
        wishes: None: all rows take the largest.
        filters: Whether some row asks for top-k, top-p or min-p, which takes a sort.
    """
    best = largest(logits)
    if wishes is None:
        return best
    wide = logits.float()
    heat = wishes.temperature.clamp(min=LEAST_TEMPERATURE).unsqueeze(1)
    wide = (wide - wide.amax(-1, keepdim=True)) / heat
    if filters:
        wide = _filtered(wide, wishes)
    drawn = (wide.softmax(-1) / exponentials_of(wishes.names, logits.shape[-1])).argmax(-1)
    return torch.where(wishes.temperature == 0.0, best, drawn)


def _filtered(x: Tensor, wishes: Wishes) -> Tensor:
    """-inf where top-k, then top-p, then min-p of its row drop a token."""
    vocab = x.shape[-1]
    ordered, index = x.sort(dim=-1, descending=True)
    k = torch.where(wishes.top_k > 0, wishes.top_k.clamp(max=vocab), vocab).unsqueeze(1)
    floor = ordered.gather(-1, k - 1)  # ties with the k-th stay
    x, ordered = (t.masked_fill(t < floor, -math.inf) for t in (x, ordered))
    share, p = ordered.softmax(-1), wishes.top_p.unsqueeze(1)
    kept = (share.cumsum(-1) - share < p) | (p >= 1.0)
    x = x.masked_fill(~torch.zeros_like(kept).scatter(-1, index, kept), -math.inf)
    least = x.amax(-1, keepdim=True) + wishes.min_p.log().unsqueeze(1)
    return x.masked_fill(x < least, -math.inf)
