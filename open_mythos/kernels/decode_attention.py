"""Attention of one new token per row, over a static cache or over blocks of pages.

One query has no rows to spread over a GPU, so its keys are spread instead, in stretches. Blocks are
read where they lie, through the row's line of a table (Kwon et al. 2023): nothing is copied
together first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.interpreter import bound, multiply
from open_mythos.kernels.stretches import Tiling, default_tiling, join_stretches, power, stretch


# Query heads per program: the least that fills the rows of a tensor-core tile.
HEADS = 16
LOG2_E = 1.4426950408889634


@triton.jit  # type: ignore[untyped-decorator]
def _attend_stretch(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0915
    q,
    keys,
    others,
    lengths,
    starts,
    table,
    lines,
    shifts,
    mixed,
    lse,
    scale,
    length_stride,
    start_stride,
    table_line,
    shift_stride,
    q_row,
    q_head,
    key_row,
    key_step,
    key_head,
    other_row,
    other_step,
    other_head,
    capacity,
    splits,
    heads,
    GROUP: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
    OTHER: tl.constexpr,
    WIDTH_2: tl.constexpr,
    OTHER_2: tl.constexpr,
    SIZE: tl.constexpr,
    SHARED: tl.constexpr,
    SINGLE: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Online softmax over one stretch; `others` are values, or with SHARED the rotary keys.

    With SIZE, keys lie in blocks of so many, those of a row named by its line of the table.
    """
    head = tl.program_id(0) // BLOCKS
    split = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    first, end, per = stretch(
        lengths, starts, length_stride, start_stride, b, capacity, splits, HAS_STARTS, TILE
    )
    lo = first + split * per
    hi = tl.minimum(end, lo + per)
    if not SINGLE:  # noqa: SIM102 -- one is known at compile time
        if lo >= hi:
            return  # the joining kernel knows, and does not read what is not written here

    member = (tl.program_id(0) % BLOCKS) * HEADS + tl.arange(0, HEADS)
    asks = member < GROUP
    query = head * GROUP + member
    col = tl.arange(0, WIDTH_2)
    col_other = tl.arange(0, OTHER_2)
    rows = tl.arange(0, TILE)
    q += b * q_row
    q_at = q + query[:, None] * q_head
    q_main = tl.load(q_at + col[None, :], mask=asks[:, None] & (col < WIDTH)[None, :], other=0.0)
    if SHARED:
        q_other = tl.load(
            q_at + WIDTH + col_other[None, :],
            mask=asks[:, None] & (col_other < OTHER)[None, :],
            other=0.0,
        )
    keys += head.to(tl.int64) * key_head
    others += head.to(tl.int64) * other_head
    if SIZE:
        table += tl.load(lines + b) * table_line
        shift = tl.load(shifts + b * shift_stride)
    else:
        keys += b * key_row
        others += b * other_row

    top = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.full((HEADS,), 0.0, tl.float32)
    acc = tl.full((HEADS, WIDTH_2 if SHARED else OTHER_2), 0.0, tl.float32)
    for n in range(bound(lo), bound(hi), TILE):
        # What stands behind the length is never read, so it may be anything.
        seen = rows < hi - n
        at = tl.cast(n, tl.int64) + rows
        if SIZE:
            block = tl.load(table + at // SIZE, mask=seen, other=0) + shift
            key_at = block * key_row + at % SIZE * key_step
            other_at = block * other_row + at % SIZE * other_step
        else:
            key_at, other_at = at * key_step, at * other_step
        key = tl.load(
            keys + key_at[:, None] + col[None, :],
            mask=seen[:, None] & (col < WIDTH)[None, :],
            other=0.0,
        )
        other = tl.load(
            others + other_at[:, None] + col_other[None, :],
            mask=seen[:, None] & (col_other < OTHER)[None, :],
            other=0.0,
        )
        score = multiply(q_main, tl.trans(key), tl.zeros((HEADS, TILE), tl.float32))
        if SHARED:
            score = multiply(q_other, tl.trans(other), score)
        score = tl.where(seen[None, :], score * scale, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        fade = tl.exp2(top - new_top)
        weight = tl.exp2(score - new_top[:, None])
        total = total * fade + tl.sum(weight, 1)
        value = key if SHARED else other
        acc = multiply(weight.to(value.dtype), value, acc * fade[:, None])
        top = new_top

    # A row without keys (SINGLE only) has total 0 and gets zeros.
    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    slot = (b * heads + query) * splits + split
    if SHARED:
        out_at = mixed + slot[:, None] * WIDTH + col[None, :]
        tl.store(out_at, acc, mask=asks[:, None] & (col < WIDTH)[None, :])
    else:
        out_at = mixed + slot[:, None] * OTHER + col_other[None, :]
        tl.store(out_at, acc, mask=asks[:, None] & (col_other < OTHER)[None, :])
    if not SINGLE:
        tl.store(lse + slot, top + tl.log2(total), mask=asks)


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    starts: Tensor | None,
    scale: float,
    tiling: Tiling | None = None,
) -> Tensor:
    """Mix cached values for one new token per row; grouped query heads share a key head.

    The plain twin is `ops.decode.attend_lengths_reference`. No gradient. Can be captured in a
    CUDA graph: lengths and starts are read on the device only.

    Args:
        q: (B, 1, H, e).
        k: (B, C, K, e), K dividing H; any strides, last dimension contiguous (else it is copied).
        v: (B, C, K, f), as k.
        lengths: (B,) int32 or int64; row b shows keys starts[b] <= j < lengths[b], the new token's
            own included. Never more than C are read.
        starts: (B,) or None for 0.
        scale: Factor on the scores.
        tiling: How the context is cut; None is `default_tiling`.

    Returns:
        (B, 1, H, f) in the dtype of q; zeros for a row that shows no key.
    """
    return _decode(q, k, v, lengths, starts, scale, tiling, shared=False)


def decode_latent_attention(
    q: Tensor,
    c_kv: Tensor,
    k_rope: Tensor,
    lengths: Tensor,
    starts: Tensor | None,
    scale: float,
    tiling: Tiling | None = None,
) -> Tensor:
    """Mix cached latents for one new token per row: absorbed multi-head latent attention.

    Every head looks at the same key, the latent with the rotary key behind it, and mixes the same
    value, the latent itself, so each latent is loaded once for both. The plain twin is
    `ops.decode.attend_lengths_reference` with those keys and values. Else as `decode_attention`.

    Args:
        q: (B, 1, H, r + p), the query in the latent space and the rotated query.
        c_kv: (B, C, r).
        k_rope: (B, C, p).
        lengths: (B,) int32 or int64.
        starts: (B,) or None for 0.
        scale: Factor on the scores.
        tiling: How the context is cut; None is `default_tiling`.

    Returns:
        (B, 1, H, r) in the dtype of q, in the latent space.
    """
    keys, rotary = c_kv.unsqueeze(2), k_rope.unsqueeze(2)
    return _decode(q, keys, rotary, lengths, starts, scale, tiling, shared=True)


Lookup = tuple[Tensor, Tensor, Tensor]  # block tables, each row's line of them, each row's shift


def decode_paged(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends: Tensor,
    lookup: Lookup,
    scale: float,
    tiling: Tiling | None = None,
) -> Tensor:
    """`decode_attention` of keys that lie in blocks; its twin is `ops.paged.attend_blocks_plain`.

    Args:
        q: (B, 1, H, e).
        k: (P, size, K, e), K dividing H; last dimension contiguous, other strides free.
        v: (P, size, K, f), as k.
        ends: (B,) int32 or int64; row b shows the first ends[b] keys of its blocks.
        lookup: Tables (R, M), lines (B,) and shift (B,) or (1,), int64, as `ops.paged.Blocks`.
        scale: Factor on the scores.
        tiling: How the context is cut; None is `default_tiling`.
    """
    return _decode(q, k, v, ends, None, scale, tiling, lookup, shared=False)


def decode_paged_latent(
    q: Tensor,
    c_kv: Tensor,
    k_rope: Tensor,
    ends: Tensor,
    lookup: Lookup,
    scale: float,
    tiling: Tiling | None = None,
) -> Tensor:
    """`decode_latent_attention` of entries that lie in blocks (P, size, r) and (P, size, p)."""
    keys, rotary = c_kv.unsqueeze(2), k_rope.unsqueeze(2)
    return _decode(q, keys, rotary, ends, None, scale, tiling, lookup, shared=True)


def _decode(  # noqa: PLR0913 -- the arguments of all public forms
    q: Tensor,
    keys: Tensor,
    others: Tensor,
    lengths: Tensor,
    starts: Tensor | None,
    scale: float,
    tiling: Tiling | None,
    lookup: Lookup | None = None,
    *,
    shared: bool,
) -> Tensor:
    batch, _, heads, _ = q.shape
    size, key_heads, width = keys.shape[1:]
    capacity = size if lookup is None else size * lookup[0].shape[1]
    other = others.shape[3]
    group, out_width = heads // key_heads, width if shared else other
    out = q.new_empty(batch, 1, heads, out_width)
    if out.numel() == 0:
        return out
    q, keys, others = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, keys, others))
    tiles = -(-group // HEADS)
    if tiling is None:
        row_bytes = (width + other) * keys.element_size()
        tiling = default_tiling(batch * key_heads * tiles, capacity, row_bytes)
    splits = tiling.splits
    single = splits == 1
    mixed = out if single else q.new_empty(batch, heads, splits, out_width, dtype=torch.float32)
    lse = out if single else q.new_empty(batch, heads, splits, dtype=torch.float32)
    begins = lengths if starts is None else starts  # never read without HAS_STARTS
    table, lines, shift = lookup or (lengths, lengths, lengths)  # never read without SIZE
    _attend_stretch[(key_heads * tiles, splits, batch)](
        q,
        keys,
        others,
        lengths,
        begins,
        table,
        lines,
        shift,
        mixed,
        lse,
        scale * LOG2_E,
        lengths.stride(0),
        begins.stride(0),
        table.stride(0),
        shift.stride(0) if shift.shape[0] > 1 else 0,
        q.stride(0),
        q.stride(2),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        others.stride(0),
        others.stride(1),
        others.stride(2),
        capacity,
        splits,
        heads,
        GROUP=group,
        BLOCKS=tiles,
        WIDTH=width,
        OTHER=other,
        WIDTH_2=max(16, power(width)),
        OTHER_2=max(16, power(other)),
        SIZE=0 if lookup is None else size,
        SHARED=shared,
        SINGLE=single,
        HAS_STARTS=starts is not None,
        HEADS=HEADS,
        TILE=tiling.tile,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if not single:
        join_stretches(mixed, lse, lengths, starts, out, tiling, capacity)
    return out
