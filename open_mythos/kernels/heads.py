"""Queries and keys of latent attention, [still | turned] per head, written in one pass each way.

Turning one part of a projection and joining it to the other takes three passes over memory, and
torch's own joining of parts with odd strides reads far from line by line: 2.4 ms of a prompt of
32,768 tokens over 12 layers, where memory allows 0.9 (H200). Inside a kernel everything is float32,
rounded once; what stays still is copied bit by bit. Where a projection leaves room for the ends of
its heads, only those are written: a third of the bytes of a query of 64 + 32 channels, a fifth of
those of a key.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.rows import TILE, warps_of


# Elements of one token's gradients that a program holds at once.
TOKEN_TILE = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _join(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    still,
    last,
    cos,
    sin,
    out,
    tokens,
    length,
    still_batch,
    still_step,
    still_head,
    last_batch,
    last_step,
    last_head,
    table_stride,
    HEADS: tl.constexpr,
    STILL: tl.constexpr,
    LAST: tl.constexpr,
    TURN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """ROWS heads, those of a token one after the other."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = row // HEADS
    head = (row % HEADS).to(tl.int64)
    batch = (token // length).to(tl.int64)
    step = (token % length).to(tl.int64)
    known = (token < tokens)[:, None]
    to = out + row.to(tl.int64)[:, None] * (STILL + LAST)
    cols = tl.arange(0, BLOCK)[None, :]
    real = known & (cols < STILL)
    source = batch * still_batch + step * still_step + head * still_head
    kept = tl.load(still + source[:, None] + cols, mask=real, other=0.0)
    tl.store(to + cols, kept.to(out.dtype.element_ty), mask=real)
    wide = tl.arange(0, 2 * PAIRS)[None, :]
    real = known & (wide < LAST)
    source = batch * last_batch + step * last_step + head * last_head
    tile = tl.load(last + source[:, None] + wide, mask=real, other=0.0)
    if TURN:
        a, b = tl.split(tl.reshape(tile.to(tl.float32), (ROWS, PAIRS, 2)))
        pairs = tl.arange(0, PAIRS)[None, :]
        entry = (batch * table_stride + step * (LAST // 2))[:, None] + pairs
        inside = known & (pairs < LAST // 2)
        c = tl.load(cos + entry, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + entry, mask=inside, other=0.0).to(tl.float32)
        turned = tl.join(a * c - b * s, a * s + b * c)
        tile = tl.reshape(turned, (ROWS, 2 * PAIRS)).to(out.dtype.element_ty)
    tl.store(to + STILL + wide, tile.to(out.dtype.element_ty), mask=real)


@torch.library.custom_op("open_mythos::join_heads", mutates_args=())
def join_heads(still: Tensor, last: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """[still | last] of every head, `last` turned where angles are given.

    The plain twins are `turn_queries_plain` and `join_keys_plain` in `ops.projections`.

    Args:
        still: (B, T, H, n), the last axis adjacent or copied so; other strides are free.
        last: (B, T, H, p), or (B, T, 1, p) that all heads share; likewise. p is even.
        cos: (T, p/2) or (B, T, p/2); None turns nothing.
        sin: As `cos`.

    Returns:
        (B, T, H, n + p), contiguous.
    """
    batch, length, heads, width = still.shape
    end = last.shape[3]
    out = still.new_empty(batch, length, heads, width + end)
    if not out.numel():
        return out
    still = still if still.stride(-1) == 1 else still.contiguous()
    last = last if last.stride(-1) == 1 else last.contiguous()
    tables = [still if t is None else t.contiguous() for t in (cos, sin)]
    block = triton.next_power_of_2(max(width, 1))
    pairs = triton.next_power_of_2(triton.cdiv(end, 2))
    rows = max(TILE // (block + 2 * pairs), 1)
    rows = 1 << (rows.bit_length() - 1)
    _join[(triton.cdiv(batch * length * heads, rows),)](
        still,
        last,
        *tables,
        out,
        batch * length,
        length,
        *still.stride()[:3],
        *last.stride()[:2],
        last.stride(2) if last.shape[2] > 1 else 0,
        tables[0].stride(0) if cos is not None and cos.dim() == 3 else 0,
        HEADS=heads,
        STILL=width,
        LAST=end,
        TURN=cos is not None,
        ROWS=rows,
        BLOCK=block,
        PAIRS=pairs,
        num_warps=warps_of(rows * block),
    )
    return out


@join_heads.register_fake
def _(still: Tensor, last: Tensor, *_: object) -> Tensor:
    return still.new_empty(*still.shape[:3], still.shape[3] + last.shape[3])


@triton.jit  # type: ignore[untyped-decorator]
def _ends(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    heads,
    shared,
    cos,
    sin,
    tokens,
    length,
    shared_batch,
    shared_step,
    table_stride,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    AT: tl.constexpr,
    END: tl.constexpr,
    TURN: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """ROWS heads, those of a token one after the other; each reads what it writes, or `shared`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = row // HEADS
    batch = (token // length).to(tl.int64)
    step = (token % length).to(tl.int64)
    known = (token < tokens)[:, None]
    wide = tl.arange(0, 2 * PAIRS)[None, :]
    real = known & (wide < END)
    to = heads + row.to(tl.int64)[:, None] * WIDTH + AT + wide
    if TURN:
        tile = tl.load(to, mask=real, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(tile, (ROWS, PAIRS, 2)))
        pairs = tl.arange(0, PAIRS)[None, :]
        entry = (batch * table_stride + step * (END // 2))[:, None] + pairs
        inside = known & (pairs < END // 2)
        c = tl.load(cos + entry, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + entry, mask=inside, other=0.0).to(tl.float32)
        tile = tl.reshape(tl.join(a * c - b * s, a * s + b * c), (ROWS, 2 * PAIRS))
    else:
        source = (batch * shared_batch + step * shared_step)[:, None] + wide
        tile = tl.load(shared + source, mask=real, other=0.0)
    tl.store(to, tile.to(heads.dtype.element_ty), mask=real)


def _launch_ends(
    heads: Tensor, at: int, end: int, shared: Tensor | None, tables: tuple[Tensor, Tensor] | None
) -> Tensor:
    batch, length, count, width = heads.shape
    if not heads.is_contiguous():
        raise ValueError("heads are written in place: they must be contiguous")
    if not heads.numel():
        return heads
    source = heads if shared is None else shared
    source = source if source.stride(-1) == 1 else source.contiguous()
    cos, sin = (heads, heads) if tables is None else (t.contiguous() for t in tables)
    pairs = triton.next_power_of_2(triton.cdiv(end, 2))
    rows = max(TILE // (2 * pairs), 1)
    _ends[(triton.cdiv(batch * length * count, rows),)](
        heads,
        source,
        cos,
        sin,
        batch * length,
        length,
        source.stride(0),
        source.stride(1),
        cos.stride(0) if tables is not None and cos.dim() == 3 else 0,
        HEADS=count,
        WIDTH=width,
        AT=at,
        END=end,
        TURN=tables is not None,
        ROWS=rows,
        PAIRS=pairs,
        num_warps=warps_of(rows * 2 * pairs),
    )
    return heads


def turn_ends(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the last channels of every head where they lie; twin of `turn_ends_plain`.

    Args:
        heads: (B, T, H, n + p), contiguous, changed in place; p is even.
        cos: (T, p/2) or (B, T, p/2).
        sin: As `cos`.

    Returns:
        `heads`.

    Raises:
        ValueError: If `heads` is not contiguous.
    """
    end = 2 * cos.shape[-1]
    return _launch_ends(heads, heads.shape[3] - end, end, None, (cos, sin))


def put_ends(heads: Tensor, shared: Tensor, at: int) -> Tensor:
    """Write what all heads share into each; twin of `put_ends_plain` in `ops.projections`.

    Args:
        heads: (B, S, H, w), contiguous, changed in place.
        shared: (B, S, p), the last axis adjacent or copied so; other strides are free.
        at: The first of the p channels of a head that are written.

    Returns:
        `heads`.

    Raises:
        ValueError: If `heads` is not contiguous.
    """
    return _launch_ends(heads, at, shared.shape[-1], shared, None)


@triton.jit  # type: ignore[untyped-decorator]
def _split(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    d_keys,
    d_values,
    d_joint,
    d_shared,
    length,
    k_batch,
    k_step,
    k_head,
    v_batch,
    v_step,
    v_head,
    HEADS: tl.constexpr,
    STILL: tl.constexpr,
    SHARED: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_STILL: tl.constexpr,
    BLOCK_SHARED: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
):
    """One token: its heads in turn, so that the sum over them has one order."""
    token = tl.program_id(0).to(tl.int64)
    batch, step = token // length, token % length
    keys = d_keys + batch * k_batch + step * k_step
    values = d_values + batch * v_batch + step * v_step
    joint = d_joint + token * (HEADS * (STILL + VALUE))
    kind = d_joint.dtype.element_ty
    still = tl.arange(0, BLOCK_STILL)[None, :]
    shared = tl.arange(0, BLOCK_SHARED)[None, :]
    value = tl.arange(0, BLOCK_VALUE)[None, :]
    total = tl.zeros((BLOCK_SHARED,), tl.float32)
    for first in tl.static_range(0, HEADS, BLOCK_HEADS):
        head = first + tl.arange(0, BLOCK_HEADS)[:, None]
        some = head < HEADS
        to = joint + head * (STILL + VALUE)
        real = some & (still < STILL)
        tl.store(to + still, tl.load(keys + head * k_head + still, mask=real).to(kind), mask=real)
        real = some & (value < VALUE)
        grad = tl.load(values + head * v_head + value, mask=real).to(kind)
        tl.store(to + STILL + value, grad, mask=real)
        real = some & (shared < SHARED)
        part = tl.load(keys + head * k_head + STILL + shared, mask=real, other=0.0)
        total += tl.sum(part.to(tl.float32), 0)
    cols = tl.arange(0, BLOCK_SHARED)
    at = d_shared + token * SHARED + cols
    tl.store(at, total.to(d_shared.dtype.element_ty), mask=cols < SHARED)


@torch.library.custom_op("open_mythos::split_keys", mutates_args=())
def split_keys(d_keys: Tensor, d_values: Tensor, shared: int) -> tuple[Tensor, Tensor]:
    """Gradients of what `join_keys` in `ops.projections` joins, whose derivative is the plain twin.

    Args:
        d_keys: (B, S, H, n + shared), the last axis adjacent or copied so; other strides are free.
        d_values: (B, S, H, f), likewise.
        shared: Channels at the end of a key that all heads have in common.

    Returns:
        (B, S, H * (n + f)), key and value beside each other per head, and (B, S, shared), the sum
        over the heads; both contiguous.
    """
    batch, length, heads, width = d_keys.shape
    still, value = width - shared, d_values.shape[3]
    d_joint = d_keys.new_empty(batch, length, heads * (still + value))
    d_shared = d_keys.new_empty(batch, length, shared)
    if not d_joint.numel():
        return d_joint, d_shared.zero_()
    d_keys = d_keys if d_keys.stride(-1) == 1 else d_keys.contiguous()
    d_values = d_values if d_values.stride(-1) == 1 else d_values.contiguous()
    blocks = [triton.next_power_of_2(max(n, 1)) for n in (still, shared, value)]
    some = max(TOKEN_TILE // sum(blocks), 1)
    some = min(1 << (some.bit_length() - 1), triton.next_power_of_2(heads))
    _split[(batch * length,)](
        d_keys,
        d_values,
        d_joint,
        d_shared,
        length,
        *d_keys.stride()[:3],
        *d_values.stride()[:3],
        HEADS=heads,
        STILL=still,
        SHARED=shared,
        VALUE=value,
        BLOCK_HEADS=some,
        BLOCK_STILL=blocks[0],
        BLOCK_SHARED=blocks[1],
        BLOCK_VALUE=blocks[2],
        num_warps=warps_of(some * sum(blocks)),
    )
    return d_joint, d_shared


@split_keys.register_fake
def _(d_keys: Tensor, d_values: Tensor, shared: int) -> tuple[Tensor, Tensor]:
    batch, length, heads, width = d_keys.shape
    joint = heads * (width - shared + d_values.shape[3])
    return d_keys.new_empty(batch, length, joint), d_keys.new_empty(batch, length, shared)
