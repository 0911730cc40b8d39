"""Keys and values, normed, turned and written where a cache keeps them, in one launch.

Per layer of a decode token the plain way is two norms or turns and two `index_copy_`, each a launch
of 2.5 microseconds for a few kilobytes; of a prompt it is a copy of every key and value more.
Inside a kernel everything is float32, rounded once to the dtype of the input, then to that of the
cache.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from open_mythos.kernels.dependent import dependent_launch
from open_mythos.kernels.rows import warps_of


# Elements of one program: a token has a few thousand, which several programs read at once.
SHARE = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _turned(tile, cos, sin, ROWS: tl.constexpr, PAIRS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Adjacent channels of (ROWS, 2 * PAIRS) turned by (PAIRS,) angles."""
    a, b = tl.split(tl.reshape(tile, (ROWS, PAIRS, 2)))
    c, s = cos[None, :], sin[None, :]
    return tl.reshape(tl.join(a * c - b * s, a * s + b * c), (ROWS, 2 * PAIRS))


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_store(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    qkv,
    cos,
    sin,
    q,
    k,
    v,
    position,
    length,
    capacity,
    row_stride,
    step_stride,
    table_stride,
    place_stride,
    k_row,
    k_step,
    k_head,
    v_row,
    v_step,
    v_head,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BEHIND: tl.constexpr,
    PDL: tl.constexpr,
):
    """Some heads of one token; with BEHIND its place is counted from `position`, else from 0."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    token = tl.program_id(0)
    row, at = (token // length).to(tl.int64), (token % length).to(tl.int64)
    line = qkv + row * row_stride + at * step_stride
    entry = row * table_stride + at * (WIDTH // 2)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    cols = tl.arange(0, 2 * BLOCK_PAIRS)
    pairs = tl.arange(0, BLOCK_PAIRS)
    inside = (cols < WIDTH)[None, :]
    real = (head < HEADS + 2 * KV_HEADS)[:, None] & inside
    if BEHIND:
        at += tl.load(position + row * place_stride)
    room = (at >= 0) & (at < capacity)
    tile = tl.load(line + head[:, None] * WIDTH + cols[None, :], mask=real, other=0.0)
    c = tl.load(cos + entry + pairs, mask=pairs < WIDTH // 2, other=0.0).to(tl.float32)
    s = tl.load(sin + entry + pairs, mask=pairs < WIDTH // 2, other=0.0).to(tl.float32)
    turned = _turned(tile.to(tl.float32), c, s, BLOCK_HEADS, BLOCK_PAIRS).to(q.dtype.element_ty)
    of_q = (head < HEADS)[:, None] & inside
    to = q + (token.to(tl.int64) * HEADS + head[:, None]) * WIDTH + cols[None, :]
    tl.store(to, turned, mask=of_q)
    kv = (head - HEADS).to(tl.int64)
    of_k = ((kv >= 0) & (kv < KV_HEADS))[:, None] & inside & room
    to = k + row * k_row + at * k_step + kv[:, None] * k_head + cols[None, :]
    tl.store(to, turned.to(k.dtype.element_ty), mask=of_k)
    kv -= KV_HEADS
    of_v = ((kv >= 0) & (kv < KV_HEADS))[:, None] & inside & room
    to = v + row * v_row + at * v_step + kv[:, None] * v_head + cols[None, :]
    tl.store(to, tile.to(v.dtype.element_ty), mask=of_v)


def rotate_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, k: Tensor, v: Tensor, position: Tensor | None
) -> Tensor:
    """Twin of `rotate_store_plain` in `ops.store`; a position without room is not written.

    Args:
        qkv: (B, T, (H + 2K) * d), d even.
        cos: (T, d/2) or (B, T, d/2).
        sin: As `cos`.
        k: (B, C, K, d), written from `position` on; channels adjacent, other strides free.
        v: Likewise.
        position: (1,), or (B,) where each row has its own, int64; None is 0.

    Returns:
        The turned queries (B, T, H, d), contiguous.
    """
    batch, capacity, kv_heads, width = k.shape
    length = qkv.shape[1]
    every = qkv.shape[-1] // width
    heads = every - 2 * kv_heads
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    q = qkv.new_empty((batch, length, heads, width))
    if batch * length:
        block_pairs = triton.next_power_of_2(triton.cdiv(width, 2))
        block_heads = min(triton.next_power_of_2(every), max(SHARE // (2 * block_pairs), 1))
        pdl = dependent_launch(qkv.device)
        _rotate_store[(batch * length, triton.cdiv(every, block_heads))](
            qkv,
            cos,
            sin,
            q,
            k,
            v,
            qkv if position is None else position,
            length,
            capacity,
            *qkv.stride()[:2],
            cos.stride(0) if cos.dim() == 3 else 0,
            _place_stride(position),
            *k.stride()[:3],
            *v.stride()[:3],
            HEADS=heads,
            KV_HEADS=kv_heads,
            WIDTH=width,
            BLOCK_HEADS=block_heads,
            BLOCK_PAIRS=block_pairs,
            BEHIND=position is not None,
            PDL=pdl,
            num_warps=warps_of(2 * block_pairs * block_heads),
            launch_pdl=pdl,
        )
    return q


def _place_stride(position: Tensor | None) -> int:
    """From one row's position to the next one's; 0 where all have one."""
    return 0 if position is None or position.shape[0] == 1 else position.stride(0)


# -- latent attention ------------------------------------------------------------------------------


@triton.jit  # type: ignore[untyped-decorator]
def _normed(  # type: ignore[no-untyped-def]
    x, weight, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """The RMS norm of WIDTH numbers at `x`, in float32; the weight rounded to the dtype of `x`."""
    cols = tl.arange(0, BLOCK)
    kind = x.dtype.element_ty
    value = tl.load(x + cols, mask=cols < WIDTH, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / WIDTH + eps)
    w = tl.load(weight + cols, mask=cols < WIDTH, other=0.0).to(kind).to(tl.float32)
    return value * scale * w


@triton.jit  # type: ignore[untyped-decorator]
def _store_latent(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    down,
    q_weight,
    kv_weight,
    q_eps,
    kv_eps,
    cos,
    sin,
    q_latent,
    c_kv,
    k_rope,
    position,
    length,
    capacity,
    row_stride,
    step_stride,
    table_stride,
    place_stride,
    c_row,
    c_step,
    k_row,
    k_step,
    Q: tl.constexpr,
    R: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BEHIND: tl.constexpr,
    PDL: tl.constexpr,
):
    """One token: its entries, or its query latent; BEHIND as in `_rotate_store`."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    token = tl.program_id(0)
    row, step = (token // length).to(tl.int64), (token % length).to(tl.int64)
    line = down + row * row_stride + step * step_stride
    kind = down.dtype.element_ty
    if tl.program_id(1) == 0:
        at = step
        if BEHIND:
            at += tl.load(position + row * place_stride)
        room = (at >= 0) & (at < capacity)
        cols = tl.arange(0, BLOCK_R)
        latent = _normed(line + Q, kv_weight, kv_eps, R, BLOCK_R).to(kind)
        to = c_kv + row * c_row + at * c_step + cols
        tl.store(to, latent.to(c_kv.dtype.element_ty), mask=(cols < R) & room)
        pairs = tl.arange(0, BLOCK_PAIRS)
        entry = row * table_stride + step * (ROPE // 2) + pairs
        c = tl.load(cos + entry, mask=pairs < ROPE // 2, other=0.0).to(tl.float32)
        s = tl.load(sin + entry, mask=pairs < ROPE // 2, other=0.0).to(tl.float32)
        wide = tl.arange(0, 2 * BLOCK_PAIRS)[None, :]
        key = tl.load(line + Q + R + wide, mask=wide < ROPE, other=0.0).to(tl.float32)
        turned = _turned(key, c, s, 1, BLOCK_PAIRS).to(kind)
        to = k_rope + row * k_row + at * k_step + wide
        tl.store(to, turned.to(k_rope.dtype.element_ty), mask=(wide < ROPE) & room)
    elif Q > 0:
        places = tl.arange(0, BLOCK_Q)  # Triton wants one type per name over both branches
        q = _normed(line, q_weight, q_eps, Q, BLOCK_Q)
        tl.store(q_latent + token.to(tl.int64) * Q + places, q.to(kind), mask=places < Q)


def store_latent(  # noqa: PLR0913
    down: Tensor,
    q_norm: tuple[Tensor, float],
    kv_norm: tuple[Tensor, float],
    cos: Tensor,
    sin: Tensor,
    c_kv: Tensor,
    k_rope: Tensor,
    position: Tensor | None,
) -> Tensor:
    """Twin of `store_latent_plain` in `ops.store`; a position without room is not written.

    Args:
        down: (B, T, Q + r + p): query latent, latent, shared key; Q may be 0, p is even.
        q_norm: Weight (Q,), rounded to the dtype of `down` first, and eps.
        kv_norm: Weight (r,), rounded likewise, and eps.
        cos: (T, p/2) or (B, T, p/2).
        sin: As `cos`.
        c_kv: (B, C, r), written from `position` on; channels adjacent, other strides free.
        k_rope: (B, C, p), likewise.
        position: (1,), or (B,) where each row has its own, int64; None is 0.

    Returns:
        The normed query latent (B, T, Q), contiguous.
    """
    batch, capacity, r = c_kv.shape
    length = down.shape[1]
    rope = k_rope.shape[-1]
    width = down.shape[-1] - r - rope
    down = down if down.stride(-1) == 1 else down.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    q_latent = down.new_empty((batch, length, width))
    if batch * length:
        block_q, block_r = triton.next_power_of_2(max(width, 1)), triton.next_power_of_2(r)
        pdl = dependent_launch(down.device)
        _store_latent[(batch * length, 2 if width else 1)](
            down,
            q_norm[0],
            kv_norm[0],
            q_norm[1],
            kv_norm[1],
            cos,
            sin,
            q_latent,
            c_kv,
            k_rope,
            down if position is None else position,
            length,
            capacity,
            *down.stride()[:2],
            cos.stride(0) if cos.dim() == 3 else 0,
            _place_stride(position),
            *c_kv.stride()[:2],
            *k_rope.stride()[:2],
            Q=width,
            R=r,
            ROPE=rope,
            BLOCK_Q=block_q,
            BLOCK_R=block_r,
            BLOCK_PAIRS=triton.next_power_of_2(triton.cdiv(rope, 2)),
            BEHIND=position is not None,
            PDL=pdl,
            num_warps=warps_of(max(block_q, block_r)),
            launch_pdl=pdl,
        )
    return q_latent


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_query(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    latent,
    joint,
    cos,
    sin,
    out,
    latent_row,
    latent_head,
    row_stride,
    table_stride,
    HEADS: tl.constexpr,
    R: tl.constexpr,
    NOPE: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    PDL: tl.constexpr,
):
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    some = (head < HEADS)[:, None]
    head = head.to(tl.int64)[:, None]
    to = out + (row * HEADS + head) * (R + ROPE)
    cols = tl.arange(0, BLOCK_R)[None, :]
    real = some & (cols < R)
    kept = tl.load(latent + row * latent_row + head * latent_head + cols, mask=real, other=0.0)
    tl.store(to + cols, kept.to(out.dtype.element_ty), mask=real)
    pairs = tl.arange(0, BLOCK_PAIRS)
    entry = row * table_stride + pairs
    c = tl.load(cos + entry, mask=pairs < ROPE // 2, other=0.0).to(tl.float32)
    s = tl.load(sin + entry, mask=pairs < ROPE // 2, other=0.0).to(tl.float32)
    wide = tl.arange(0, 2 * BLOCK_PAIRS)[None, :]
    real = some & (wide < ROPE)
    source = joint + row * row_stride + HEADS * NOPE + head * ROPE + wide
    tile = tl.load(source, mask=real, other=0.0).to(tl.float32)
    turned = _turned(tile, c, s, BLOCK_HEADS, BLOCK_PAIRS)
    tl.store(to + R + wide, turned.to(out.dtype.element_ty), mask=real)


def rotate_query(latent: Tensor, joint: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Twin of `rotate_query_plain` in `ops.store`.

    Args:
        latent: (B, 1, H, r), channels adjacent or copied so; other strides are free.
        joint: (B, 1, H * n + H * p): what does not turn of all heads, then what turns; p even.
        cos: (1, p/2) or (B, 1, p/2).
        sin: As `cos`.

    Returns:
        (B, 1, H, r + p), contiguous, in the dtype of `joint`.
    """
    batch, _, heads, r = latent.shape
    rope = 2 * cos.shape[-1]
    latent = latent if latent.stride(-1) == 1 else latent.contiguous()
    joint = joint if joint.stride(-1) == 1 else joint.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    out = joint.new_empty((batch, 1, heads, r + rope))
    if batch:
        block_r = triton.next_power_of_2(r)
        block_heads = min(triton.next_power_of_2(heads), max(SHARE // block_r, 1))
        pdl = dependent_launch(joint.device)
        _rotate_query[(batch, triton.cdiv(heads, block_heads))](
            latent,
            joint,
            cos,
            sin,
            out,
            latent.stride(0),
            latent.stride(2),
            joint.stride(0),
            cos.stride(0) if cos.dim() == 3 else 0,
            HEADS=heads,
            R=r,
            NOPE=joint.shape[-1] // heads - rope,
            ROPE=rope,
            BLOCK_HEADS=block_heads,
            BLOCK_R=block_r,
            BLOCK_PAIRS=triton.next_power_of_2(rope // 2),
            PDL=pdl,
            num_warps=warps_of(block_r * block_heads),
            launch_pdl=pdl,
        )
    return out
