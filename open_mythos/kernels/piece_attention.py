"""Attention of pieces of prompts over pages: neighbouring positions of one request at a time.

Keys are read where they lie, through block tables, so that pieces of many requests are one launch
(as flash attention of variable lengths, Dao 2023, over the pages of Kwon et al. 2023). The queries
of a key head are rows of one tile: positions times the heads that share it.
"""

import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.decode_attention import LOG2_E, Lookup
from open_mythos.kernels.interpreter import bound, multiply
from open_mythos.kernels.stretches import power


# Positions of a tile, at most: what a call is cut into before it is launched.
POSITIONS = 16
# Query heads of a tile, at most: 128 rows fill two tensor-core instructions of a warp group.
HEADS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _attend_piece(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    q,
    k,
    v,
    cuts,
    ends,
    table,
    lines,
    shifts,
    out,
    scale,
    cut_stride,
    table_line,
    shift_stride,
    q_row,
    q_head,
    k_block,
    k_step,
    k_head,
    v_block,
    v_step,
    v_head,
    heads,
    GROUP: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
    OTHER: tl.constexpr,
    WIDTH_2: tl.constexpr,
    OTHER_2: tl.constexpr,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Online softmax of one cut's positions and some heads over all keys that the last one sees."""
    first = tl.load(cuts + tl.program_id(0))
    count = tl.load(cuts + cut_stride + tl.program_id(0))
    if count == 0:
        return  # all of its rows have left
    head = (tl.program_id(1) // BLOCKS).to(tl.int64)
    lane = tl.arange(0, ROWS)
    member = (tl.program_id(1) % BLOCKS) * HEADS + lane % HEADS
    asks = (lane // HEADS < count) & (member < GROUP)
    row = first + tl.minimum(lane // HEADS, count - 1)
    query = head * GROUP + member
    seen = tl.load(ends + row)
    end = tl.load(ends + first + count - 1)
    table += tl.load(lines + first) * table_line
    shift = tl.load(shifts + first * shift_stride)

    col = tl.arange(0, WIDTH_2)
    col_other = tl.arange(0, OTHER_2)
    steps = tl.arange(0, TILE)
    asked = tl.load(
        q + (row * q_row + query * q_head)[:, None] + col[None, :],
        mask=asks[:, None] & (col < WIDTH)[None, :],
        other=0.0,
    )
    k += head * k_head
    v += head * v_head
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.full((ROWS,), 0.0, tl.float32)
    acc = tl.full((ROWS, OTHER_2), 0.0, tl.float32)
    for n in range(0, bound(end), TILE):
        at = tl.cast(n, tl.int64) + steps
        real = at < end
        block = tl.load(table + at // SIZE, mask=real, other=0) + shift
        inner = at % SIZE
        key = tl.load(
            k + (block * k_block + inner * k_step)[:, None] + col[None, :],
            mask=real[:, None] & (col < WIDTH)[None, :],
            other=0.0,
        )
        value = tl.load(
            v + (block * v_block + inner * v_step)[:, None] + col_other[None, :],
            mask=real[:, None] & (col_other < OTHER)[None, :],
            other=0.0,
        )
        score = multiply(asked, tl.trans(key), tl.zeros((ROWS, TILE), tl.float32))
        # The first key is in the first tile, and all see it: `top` is a number from there on.
        score = tl.where(at[None, :] < seen[:, None], score * scale, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        fade = tl.exp2(top - new_top)
        weight = tl.exp2(score - new_top[:, None])
        total = total * fade + tl.sum(weight, 1)
        acc = multiply(weight.to(value.dtype), value, acc * fade[:, None])
        top = new_top
    to = out + (row * heads + query)[:, None] * OTHER + col_other[None, :]
    tl.store(to, acc / total[:, None], mask=asks[:, None] & (col_other < OTHER)[None, :])


def attend_pieces(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, cuts: Tensor, lookup: Lookup, scale: float
) -> Tensor:
    """`ops.paged.attend_blocks_plain` of rows that are neighbours by request; no gradient.

    Args:
        q: (N, 1, H, e), a position of some request each.
        k: (P, size, K, e), K dividing H; last dimension contiguous, other strides free.
        v: (P, size, K, f), as k.
        ends: (N,) int64, at least 1 and ascending inside of a cut: keys that each row sees.
        cuts: (2, C) int64, first row and number of rows, 0 to `POSITIONS`, of one request each.
        lookup: Tables (R, M), lines (N,) and shift (N,) or (1,), int64, as `ops.paged.Blocks`.
        scale: Factor on the scores.

    Returns:
        (N, 1, H, f) in the dtype of q; rows of no cut are not written.
    """
    heads, width = q.shape[2:]
    size, key_heads = k.shape[1:3]
    other, group = v.shape[3], heads // key_heads
    table, lines, shift = lookup
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(len(q), 1, heads, other)
    many = min(power(group), HEADS)
    blocks = -(-group // many)
    rows = max(16, POSITIONS * many)
    tile = 64 if (width + other) * k.element_size() <= 512 else 32
    _attend_piece[(cuts.shape[1], key_heads * blocks)](
        q,
        k,
        v,
        cuts,
        ends,
        table,
        lines,
        shift,
        out,
        scale * LOG2_E,
        cuts.stride(0),
        table.stride(0),
        shift.stride(0) if shift.shape[0] > 1 else 0,
        q.stride(0),
        q.stride(2),
        *k.stride()[:3],
        *v.stride()[:3],
        heads,
        GROUP=group,
        BLOCKS=blocks,
        WIDTH=width,
        OTHER=other,
        WIDTH_2=max(16, power(width)),
        OTHER_2=max(16, power(other)),
        SIZE=size,
        HEADS=many,
        ROWS=rows,
        TILE=tile,
        num_warps=8 if rows >= 128 else 4,
        num_stages=2,
    )
    return out
