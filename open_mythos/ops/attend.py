"""Softmax attention behind one signature: SDPA, flash-attn, or the reference."""

import math
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.ops.backend import AttentionBackend, attention_backend, held, summed
from open_mythos.ops.reference import attend_reference


def attend(  # noqa: PLR0913 -- the arguments of attention
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: AttentionBackend = "auto",
) -> Tensor:
    """Mix values by the softmax of query-key products.

    The queries are aligned to the END of the keys, so a chunk after a cache is causal by
    construction.

    Args:
        q: (B, T, H, e).
        k: (B, S, K, e), K dividing H: grouped queries share a key head.
        v: (B, S, K, f); f may differ from e.
        mask: Boolean (True may look) or additive, broadcastable to (B, H, T, S); it comes on
            top of `causal`.
        causal: Whether query i sees keys up to S - T + i only.
        scale: Factor on the scores; None is e ** -0.5.
        dropout: Share of attention weights dropped; 0 outside training.
        backend: Which implementation; "auto" picks.

    Returns:
        (B, T, H, f).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    chosen = attention_backend(q, k, v, mask, backend)
    if chosen == "reference":
        return attend_reference(q, k, v, mask, scale, causal=causal)
    if chosen == "flash":
        flash = import_module("flash_attn").flash_attn_func
        out: Tensor = flash(q, k, v, dropout_p=dropout, softmax_scale=scale, causal=causal)
        return out
    if dropout == 0.0 and backend == "auto" and summed(q.flatten(-2)) and q.shape[1] == 1:
        return attend_summed(q, k, v, mask, scale)
    return _sdpa(q, k, v, mask, scale, dropout, causal=causal)


def attend_summed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """One query as sums of products, in float32 or wider: what `summed` rows take.

    Inductor makes loops of it and needs no call: over 384 positions SDPA took 110 us in bfloat16
    and 50 in float32 (profiled inside a compiled step). The plain twin is `attend_reference`, but
    for queries that see nothing, which are NaN here.

    Args:
        q: (B, 1, H, e).
        k: (B, S, K, e), K dividing H.
        v: (B, S, K, f).
        mask: Boolean or additive, broadcastable to (B, H, 1, S), or None.
        scale: Factor on the scores.

    Returns:
        (B, 1, H, f).
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    split = (k.shape[2], q.shape[2] // k.shape[2])
    query = held(q.squeeze(1).unflatten(1, split).unsqueeze(3).to(wide))  # (B, K, g, 1, e)
    scores = (query * k.transpose(1, 2).unsqueeze(2).to(wide)).sum(-1) * scale
    if mask is not None:
        shown = mask.expand(q.shape[0], q.shape[2], 1, k.shape[1]).squeeze(2).unflatten(1, split)
        hide = mask.dtype == torch.bool
        scores = scores.masked_fill(~shown, -math.inf) if hide else scores + shown
    weights = held(scores.softmax(-1)).unsqueeze(-1)
    out: Tensor = (weights * v.transpose(1, 2).unsqueeze(2).to(wide)).sum(3)
    return out.flatten(1, 2).unsqueeze(1).to(v.dtype)


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    dropout: float,
    *,
    causal: bool,
) -> Tensor:
    t, s = q.shape[1], k.shape[1]
    square = bool(causal and mask is None and t == s)  # an export's lengths are symbols
    if causal and not square and t > 1:
        # SDPA aligns its own causal flag to the START of the keys; a chunk needs the end.
        seen = torch.ones(t, s, dtype=torch.bool, device=q.device).tril(s - t)
        if mask is None:
            mask = seen
        elif mask.dtype == torch.bool:
            mask = mask & seen
        else:
            mask = mask.masked_fill(~seen, float("-inf"))
    narrow = v.dtype
    if q.device.type == "cpu" and narrow == torch.bfloat16 and torch.is_grad_enabled():
        # On a CPU its backward takes 2.4 times as long in bfloat16 as in float32.
        q, k, v = q.float(), k.float(), v.float()
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=square,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2).to(narrow)
