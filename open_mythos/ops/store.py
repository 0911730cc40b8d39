"""Entries turned and written where a cache keeps them.

In decoding that is one token per row, at a position that is a tensor; with a prompt it is the room
that the cache sets aside. The kernels serve CUDA, without gradient and outside of graphs that torch
records; everything else takes the plain definitions.
"""

import torch
from torch import Tensor

from open_mythos.ops.rows import RowsBackend, add_norm, rotate_heads, rows_backend


FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def store_backend(
    lead: Tensor, *others: Tensor | None, stores: tuple[Tensor, ...] = ()
) -> RowsBackend:
    """The implementation for `lead` (B, T, D), its tables and weights, and the caches written."""
    fits = (
        all(s.dtype in FLOATS and s.stride(-1) == 1 for s in stores)
        and rows_backend(lead, *others, *stores) == "triton"
    )
    return "triton" if fits else "plain"


def rotate_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, position: Tensor | None = None
) -> Tensor:
    """Turn the queries and keys of a fused projection; write keys and values into their caches.

    Args:
        qkv: (B, T, (H + 2K) * d), d even: queries, keys, values.
        cos: (T, d/2) or (B, T, d/2), float32.
        sin: As `cos`.
        k: (B, C, K, d), changed in place: at `position`, where T is 1, or all of it, where C is T.
            Rows may share their memory where their positions differ.
        v: Likewise.
        position: (1,) or (B,) int64 on the device, within the capacity C; None writes everything.

    Returns:
        Queries (B, T, H, d).
    """
    # A kernel takes some heads of a row: any width of the whole will do.
    if store_backend(qkv[..., : k.shape[-1]], cos, sin, position, stores=(k, v)) == "triton":
        from open_mythos.kernels import rotate_store as kernels  # noqa: PLC0415 -- optional

        return kernels.rotate_store(qkv, cos, sin, k, v, position)
    return rotate_store_plain(qkv, cos, sin, k, v, position)


def rotate_store_plain(
    qkv: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, position: Tensor | None = None
) -> Tensor:
    """`rotate_store` in torch."""
    kv_heads, width = k.shape[2:]
    every = qkv.unflatten(-1, (-1, width))
    q, key, value = every.split([every.shape[2] - 2 * kv_heads, kv_heads, kv_heads], dim=2)
    _write(k, rotate_heads(key, cos, sin), position)
    _write(v, value, position)
    return rotate_heads(q, cos, sin)


def _write(store: Tensor, new: Tensor, position: Tensor | None) -> None:
    if position is None:
        store.copy_(new)
    elif position.shape[0] == 1:
        store.index_copy_(1, position, new.to(store.dtype))
    else:
        rows = torch.arange(len(position), device=position.device)
        store[rows, position] = new.squeeze(1).to(store.dtype)


def store_latent(  # noqa: PLR0913 -- a projection, its norms and angles, and where it goes
    down: Tensor,
    q_norm: tuple[Tensor, float],
    kv_norm: tuple[Tensor, float],
    cos: Tensor,
    sin: Tensor,
    c_kv: Tensor,
    k_rope: Tensor,
    position: Tensor | None = None,
) -> Tensor:
    """Norm both latents of a fused down map, turn the shared key; write latent and key.

    Args:
        down: (B, T, Q + r + p), p even: query latent, latent of keys and values, shared key.
        q_norm: RMS norm of the query latent: weight (Q,) and what is added to the mean square.
        kv_norm: Likewise of the latent (r,).
        cos: (T, p/2) or (B, T, p/2), float32.
        sin: As `cos`.
        c_kv: (B, C, r), changed in place: at `position`, where T is 1, or all of it, where C is T.
        k_rope: (B, C, p), likewise.
        position: (1,) or (B,) int64 on the device, within the capacity C; None writes everything.

    Returns:
        The normed query latent (B, T, Q).
    """
    others, stores = (q_norm[0], kv_norm[0], cos, sin, position), (c_kv, k_rope)
    if store_backend(down, *others, stores=stores) == "triton":
        from open_mythos.kernels import rotate_store as kernels  # noqa: PLC0415 -- optional

        return kernels.store_latent(down, q_norm, kv_norm, cos, sin, c_kv, k_rope, position)
    return store_latent_plain(down, q_norm, kv_norm, cos, sin, c_kv, k_rope, position)


def store_latent_plain(  # noqa: PLR0913 -- as above
    down: Tensor,
    q_norm: tuple[Tensor, float],
    kv_norm: tuple[Tensor, float],
    cos: Tensor,
    sin: Tensor,
    c_kv: Tensor,
    k_rope: Tensor,
    position: Tensor | None = None,
) -> Tensor:
    """`store_latent` in torch."""
    r, rope = c_kv.shape[-1], k_rope.shape[-1]
    query, latent, key = down.split([down.shape[-1] - r - rope, r, rope], dim=-1)
    turned = rotate_heads(key.unsqueeze(2), cos, sin).squeeze(2)
    _write(c_kv, add_norm(latent, None, *kv_norm)[1], position)
    _write(k_rope, turned, position)
    return add_norm(query, None, *q_norm)[1]


def rotate_query(latent: Tensor, joint: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries of latent attention in its absorbed form: [latent query | turned part] per head.

    Args:
        latent: (B, T, H, r), the part that does not turn, mapped into the latent space.
        joint: (B, T, H * n + H * p), p even: what does not turn of all heads, then what turns.
        cos: (T, p/2) or (B, T, p/2), float32.
        sin: As `cos`.

    Returns:
        (B, T, H, r + p).
    """
    one = joint.shape[1] == 1 and latent.dtype == joint.dtype
    if one and store_backend(joint[..., :1], latent, cos, sin) == "triton":
        from open_mythos.kernels import rotate_store as kernels  # noqa: PLC0415 -- optional

        return kernels.rotate_query(latent, joint, cos, sin)
    return rotate_query_plain(latent, joint, cos, sin)


def rotate_query_plain(latent: Tensor, joint: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate_query` in torch."""
    heads, rope = latent.shape[2], 2 * cos.shape[-1]
    turned = joint[..., joint.shape[-1] - heads * rope :].unflatten(-1, (heads, rope))
    return torch.cat((latent, rotate_heads(turned, cos, sin)), dim=-1)
