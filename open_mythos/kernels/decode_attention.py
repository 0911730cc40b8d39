"""Attention of one new token per row over a static cache, split along the context.

One query has no rows to spread over a GPU, so the keys are spread instead (flash-decoding, Dao et
al. 2023): each program takes one stretch of one row's keys for one group of query heads, and a
second, small kernel joins the stretches. The stretches are cut from the lengths on the device:
a short context in a large cache still keeps all programs busy, and nothing is read on the host.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.interpreter import bound, multiply


# Query heads per program: the least that fills the rows of a tensor-core tile.
HEADS = 16
# About three programs per multiprocessor of an H100 or H200 (132). A constant, not a query of the
# device, so that a captured graph and a traced model always see the same grid.
PROGRAMS = 396
# The joining kernel holds all stretches of a row in registers.
MOST_SPLITS = 128
# Bytes of one tile of keys and values; times two or three stages in flight, times three programs.
TILE_BYTES = 40 * 1024
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Tiling:
    """How the context is cut; fixed on the host, so fixed under graph capture.

    Attributes:
        tile: Keys per step of a program, a power of two from 16; also the least of a stretch.
        splits: Stretches per row and group of heads.
        warps: Warps per program.
        stages: Tiles in flight.
    """

    tile: int
    splits: int
    warps: int = 4
    stages: int = 3


def default_tiling(groups: int, capacity: int, row_bytes: int) -> Tiling:
    """Tiles near `TILE_BYTES`, and as many stretches as fill the GPU once.

    Args:
        groups: Programs that one stretch takes: batch x key heads x blocks of query heads.
        capacity: C, the most keys a row can hold.
        row_bytes: Bytes of one key and its value.
    """
    tile = 64
    while tile > 16 and tile * row_bytes > TILE_BYTES:
        tile //= 2
    if groups <= 2:
        # One row and one key head (a latent cache at batch 1) are short of programs.
        tile = min(tile, 32)
    splits = min(PROGRAMS // groups, -(-capacity // tile), MOST_SPLITS)
    return Tiling(tile, max(splits, 1))


def _power(n: int) -> int:
    """The least power of two from n; plain Python, so that torch.compile traces it."""
    return 1 << (n - 1).bit_length()


@triton.jit  # type: ignore[untyped-decorator]
def _stretch(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    lengths,
    starts,
    length_stride,
    start_stride,
    b,
    capacity,
    splits,
    HAS_STARTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """First and end of the keys that row b shows, and the keys per stretch (whole tiles)."""
    end = tl.minimum(tl.load(lengths + b * length_stride), capacity).to(tl.int32)
    first = end * 0
    if HAS_STARTS:
        first = tl.maximum(tl.load(starts + b * start_stride).to(tl.int32), 0)
    end = tl.maximum(first, end)
    per = (end - first + splits - 1) // splits
    per = (per + TILE - 1) // TILE * TILE
    return first, end, tl.maximum(per, TILE)


@triton.jit  # type: ignore[untyped-decorator]
def _attend_stretch(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0915
    q,
    keys,
    others,
    lengths,
    starts,
    mixed,
    lse,
    scale,
    length_stride,
    start_stride,
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
    SHARED: tl.constexpr,
    SINGLE: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Online softmax over one stretch; `others` are values, or with SHARED the rotary keys."""
    head = tl.program_id(0) // BLOCKS
    split = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    first, end, per = _stretch(
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
    keys += b * key_row + head.to(tl.int64) * key_head
    others += b * other_row + head.to(tl.int64) * other_head
    key_at = rows[:, None] * key_step + col[None, :]
    other_at = rows[:, None] * other_step + col_other[None, :]

    top = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.full((HEADS,), 0.0, tl.float32)
    acc = tl.full((HEADS, WIDTH_2 if SHARED else OTHER_2), 0.0, tl.float32)
    for n in range(bound(lo), bound(hi), TILE):
        # What stands behind the length is never read, so it may be anything.
        seen = rows < hi - n
        step = tl.cast(n, tl.int64)
        key = tl.load(
            keys + step * key_step + key_at,
            mask=seen[:, None] & (col < WIDTH)[None, :],
            other=0.0,
        )
        other = tl.load(
            others + step * other_step + other_at,
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


@triton.jit  # type: ignore[untyped-decorator]
def _join_stretches(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    mixed,
    lse,
    lengths,
    starts,
    out,
    length_stride,
    start_stride,
    capacity,
    splits,
    heads,
    WIDTH: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS_2: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean of a row's stretches by their shares of the softmax, a block of columns per program."""
    row = tl.program_id(0).to(tl.int64)
    first, end, per = _stretch(
        lengths,
        starts,
        length_stride,
        start_stride,
        row // heads,
        capacity,
        splits,
        HAS_STARTS,
        TILE,
    )
    split = tl.arange(0, SPLITS_2)
    col = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    written = split * per < end - first  # the others are uninitialised
    logs = tl.load(lse + row * splits + split, mask=written, other=float("-inf"))
    part = tl.load(
        mixed + (row * splits + split)[:, None] * WIDTH + col[None, :],
        mask=written[:, None] & (col < WIDTH)[None, :],
        other=0.0,
    )
    # A row that shows nothing has no stretch at all; -inf - -inf would be NaN.
    top = tl.max(tl.where(written, logs, -1.0e38), 0)
    share = tl.where(written, tl.exp2(logs - top), 0.0)
    total = tl.sum(share, 0)
    mean = tl.sum(part * share[:, None], 0) / tl.where(total > 0.0, total, 1.0)
    tl.store(out + row * WIDTH + col, mean, mask=col < WIDTH)


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


def _decode(  # noqa: PLR0913 -- the arguments of both public forms
    q: Tensor,
    keys: Tensor,
    others: Tensor,
    lengths: Tensor,
    starts: Tensor | None,
    scale: float,
    tiling: Tiling | None,
    *,
    shared: bool,
) -> Tensor:
    batch, _, heads, _ = q.shape
    capacity, key_heads, width = keys.shape[1:]
    other = others.shape[3]
    group, out_width = heads // key_heads, width if shared else other
    out = q.new_empty(batch, 1, heads, out_width)
    if out.numel() == 0:
        return out
    q, keys, others = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, keys, others))
    blocks = -(-group // HEADS)
    if tiling is None:
        row_bytes = (width + other) * keys.element_size()
        tiling = default_tiling(batch * key_heads * blocks, capacity, row_bytes)
    tile, splits = tiling.tile, tiling.splits
    single = splits == 1
    mixed = out if single else q.new_empty(batch, heads, splits, out_width, dtype=torch.float32)
    lse = out if single else q.new_empty(batch, heads, splits, dtype=torch.float32)
    begins = lengths if starts is None else starts  # never read without HAS_STARTS
    _attend_stretch[(key_heads * blocks, splits, batch)](
        q,
        keys,
        others,
        lengths,
        begins,
        mixed,
        lse,
        scale * LOG2_E,
        lengths.stride(0),
        begins.stride(0),
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
        BLOCKS=blocks,
        WIDTH=width,
        OTHER=other,
        WIDTH_2=max(16, _power(width)),
        OTHER_2=max(16, _power(other)),
        SHARED=shared,
        SINGLE=single,
        HAS_STARTS=starts is not None,
        HEADS=HEADS,
        TILE=tile,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if single:
        return out
    # At most 4,096 numbers per program: 32 registers a thread.
    columns = 64 if splits <= 64 else 32
    _join_stretches[(batch * heads, -(-out_width // columns))](
        mixed,
        lse,
        lengths,
        begins,
        out,
        lengths.stride(0),
        begins.stride(0),
        capacity,
        splits,
        heads,
        WIDTH=out_width,
        HAS_STARTS=starts is not None,
        TILE=tile,
        SPLITS_2=_power(splits),
        COLUMNS=columns,
        num_warps=4,
    )
    return out
