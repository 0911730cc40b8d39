"""The plain definition of every op in this folder: slow, readable, and what 'correct' means."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, *, causal: bool
) -> Tensor:
    """Softmax attention with the scores written out; queries stand at the end of the keys.

    Shapes as in `attend`. `mask` is boolean (True may look) or additive.
    """
    t, s, groups = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    scores = torch.einsum("bthe,bshe->bhts", q, k) * scale
    if causal:
        seen = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(s - t)
        scores = scores.masked_fill(~seen, -math.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        else:
            scores = scores + mask
    return torch.einsum("bhts,bshf->bthf", scores.softmax(-1), v)


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Adjacent channels as complex numbers, each multiplied by its position's phasor."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    pairs = torch.view_as_complex(x.to(wide).unflatten(-1, (-1, 2)).contiguous())
    phasor = torch.complex(cos.to(wide), sin.to(wide)).unsqueeze(-2)
    return torch.view_as_real(pairs * phasor).flatten(-2).to(x.dtype)


def experts_reference(
    x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """Every token through each of its experts, one at a time. Shapes as in `run_experts`."""
    rows = []
    for n in range(x.shape[0]):
        total = torch.zeros_like(x[n])
        for expert, weight in zip(ids[n].tolist(), weights[n], strict=True):
            gate, up = (x[n] @ gate_up[expert]).chunk(2, dim=-1)
            total = total + weight * ((F.silu(gate) * up) @ down[expert])
        rows.append(total)
    return torch.stack(rows) if rows else torch.zeros_like(x)
