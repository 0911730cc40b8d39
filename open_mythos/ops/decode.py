"""Attention over a static cache: rows of one buffer, each showing its own stretch of keys."""

import math

import torch
from torch import Tensor

from open_mythos.ops.attend import attend
from open_mythos.ops.backend import HAS_TRITON, exporting, traced


# Widest latent or head that a kernel holds in registers.
WIDEST = 512


def attend_static(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, starts: Tensor | None, scale: float
) -> Tensor:
    """Attend from the newest T positions of every row to what the row's cache shows.

    What stands in the cache outside starts .. lengths has no influence, not even as NaN. The plain
    twin is `attend_lengths_reference`. One token on a GPU runs `kernels.decode_attention` and can
    be captured in a CUDA graph, as can everything else here on a GPU; there is no gradient through
    the kernel, so a call that needs one takes the other path.

    Args:
        q: (B, T, H, e), positions lengths - T .. lengths - 1 of each row.
        k: (B, C, K, e), K dividing H, the new tokens already written.
        v: (B, C, K, f).
        lengths: (B,) int32 or int64, on the device of q.
        starts: (B,) first key shown of each row (left padding), or None for 0.
        scale: Factor on the scores.

    Returns:
        (B, T, H, f); zeros where a position sees no key.
    """
    if has_kernel(q, k, v):
        from open_mythos.kernels.decode_attention import (  # noqa: PLC0415 -- triton is optional
            decode_attention,
        )

        return decode_attention(q, k, v, lengths, starts, scale)
    return _plain(q, k, v, lengths, starts, scale)


def attend_static_latent(
    q: Tensor, c_kv: Tensor, k_rope: Tensor, lengths: Tensor, starts: Tensor | None, scale: float
) -> Tensor:
    """The same over a latent cache: all heads share the key [c_kv | k_rope] and the value c_kv.

    The plain twin is `attend_lengths_reference` with those keys and values.

    Args:
        q: (B, T, H, r + p), the query in the latent space and the rotated query.
        c_kv: (B, C, r).
        k_rope: (B, C, p).
        lengths: (B,) int32 or int64.
        starts: (B,) or None for 0.
        scale: Factor on the scores.

    Returns:
        (B, T, H, r), in the latent space.
    """
    if has_kernel(q, c_kv, k_rope):
        from open_mythos.kernels.decode_attention import (  # noqa: PLC0415 -- triton is optional
            decode_latent_attention,
        )

        return decode_latent_attention(q, c_kv, k_rope, lengths, starts, scale)
    keys = torch.cat((c_kv, k_rope), dim=-1).unsqueeze(2)
    return _plain(q, keys, c_kv.unsqueeze(2), lengths, starts, scale)


def attend_lengths_reference(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, starts: Tensor | None, scale: float
) -> Tensor:
    """What `attend_static` means, with the scores written out. Shapes as there."""
    groups = q.shape[2] // k.shape[2]
    seen = _seen(lengths, starts, q.shape[1], k.shape[1])[:, None]
    shown = seen.any(dim=2)[:, 0, :, None, None]
    k = torch.where(shown, k, 0).repeat_interleave(groups, dim=2)
    v = torch.where(shown, v, 0).repeat_interleave(groups, dim=2)
    scores = torch.einsum("bthe,bshe->bhts", q, k) * scale
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    weights = torch.where(seen.any(-1, keepdim=True), weights, 0)
    return torch.einsum("bhts,bshf->bthf", weights, v)


def _seen(lengths: Tensor, starts: Tensor | None, queries: int, capacity: int) -> Tensor:
    """(B, T, C), True where the query may look at the key."""
    key = torch.arange(capacity, device=lengths.device)
    last = lengths[:, None] - queries + torch.arange(queries, device=lengths.device)
    seen = key <= last[:, :, None]
    return seen if starts is None else seen & (key >= starts[:, None, None])


def has_kernel(q: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the kernel is right for this call: one token, a GPU, no gradient, no export."""
    return (
        HAS_TRITON
        and q.is_cuda
        and q.shape[1] == 1
        and q.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and q.dtype == keys.dtype == values.dtype
        and max(keys.shape[-1], values.shape[-1]) <= WIDEST
        and not (torch.is_grad_enabled() and (q.requires_grad or keys.requires_grad))
        and not exporting()
    )


def _plain(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, starts: Tensor | None, scale: float
) -> Tensor:
    """SDPA with a mask; on a CPU, where a length costs nothing to read, over the used part only."""
    if q.device.type == "cpu" and not traced() and lengths.numel():
        end = min(int(lengths.max()), k.shape[1])
        k, v = k[:, :end], v[:, :end]
        if starts is None and end >= q.shape[1] and bool((lengths == end).all()):
            return attend(q, k, v, causal=True, scale=scale)
    seen = _seen(lengths, starts, q.shape[1], k.shape[1])
    # A weight of zero times NaN is NaN, so what no query sees goes first.
    shown = seen.any(dim=1)[:, :, None, None]
    k, v = torch.where(shown, k, 0), torch.where(shown, v, 0)
    out = attend(q, k, v, mask=seen[:, None], causal=False, scale=scale)
    return torch.where(seen.any(-1)[:, :, None, None], out, 0)
