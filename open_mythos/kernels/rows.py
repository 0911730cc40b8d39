"""Inference kernels that read a row once: sums with norms, SwiGLU, rotary turns.

A decode token is a chain of a hundred such steps on a few kilobytes; what they cost is launches.
Inside a kernel everything is float32; each output is rounded once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


# Elements per thread: one 16-byte load of 16-bit numbers.
PER_THREAD = 8
# Elements of one program where a row is cut, or heads are gathered.
TILE = 4096


def warps_of(block: int) -> int:
    """Warps for a block of so many elements: a power of two of them, at most 16.

    About one 16-byte load a thread.
    """
    warps = min(max(block // (32 * PER_THREAD), 1), 16)
    return 1 << (warps.bit_length() - 1)


def _rows(x: Tensor) -> Tensor:
    """As (N, D) with adjacent columns; a copy only where rows are not evenly spaced."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(-1) == 1 else flat.contiguous()


# -- norms -----------------------------------------------------------------------------------------


@triton.jit  # type: ignore[untyped-decorator]
def _norm(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    x,
    y,
    signal,
    weight,
    total,
    out,
    weight_after,
    after,
    x_stride,
    y_stride,
    eps,
    eps_after,
    WIDTH: tl.constexpr,
    HAS_Y: tl.constexpr,
    HAS_SIGNAL: tl.constexpr,
    KEEP: tl.constexpr,
    AFTER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    real = cols < WIDTH
    kind = out.dtype.element_ty
    s = tl.load(x + row * x_stride + cols, mask=real, other=0.0).to(tl.float32)
    if HAS_SIGNAL:
        s += tl.load(signal + cols, mask=real, other=0.0).to(tl.float32).to(kind).to(tl.float32)
    if HAS_Y:
        s += tl.load(y + row * y_stride + cols, mask=real, other=0.0).to(tl.float32)
    if KEEP:  # the norm is that of the sum as it is handed on
        s = s.to(kind)
        tl.store(total + row * WIDTH + cols, s, mask=real)
        s = s.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(s * s, 0) / WIDTH + eps)
    w = tl.load(weight + cols, mask=real, other=0.0).to(tl.float32).to(kind).to(tl.float32)
    normed = (s * scale * w).to(kind)
    tl.store(out + row * WIDTH + cols, normed, mask=real)
    if AFTER:  # the norm of what was just written, rounded as whoever reads it would find it
        s = normed.to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(s * s, 0) / WIDTH + eps_after)
        w = tl.load(weight_after + cols, mask=real, other=0.0).to(tl.float32).to(kind)
        tl.store(after + row * WIDTH + cols, (s * scale * w.to(tl.float32)).to(kind), mask=real)


def _launch_norm(
    x: Tensor,
    y: Tensor | None,
    signal: Tensor | None,
    weight: Tensor,
    eps: float,
    total: Tensor | None,
    after: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    """The norm; `after` is where another norm of it goes, that one's weight and its eps."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    second, weight_after, eps_after = after or (out, weight, eps)
    flat = _rows(x)
    other = flat if y is None else _rows(y)
    if flat.numel():
        block = triton.next_power_of_2(x.shape[-1])
        _norm[(flat.shape[0],)](
            flat,
            other,
            flat if signal is None else signal,
            weight,
            out if total is None else total,
            out,
            weight_after,
            second,
            flat.stride(0),
            other.stride(0),
            eps,
            eps_after,
            WIDTH=x.shape[-1],
            HAS_Y=y is not None,
            HAS_SIGNAL=signal is not None,
            KEEP=total is not None,
            AFTER=after is not None,
            BLOCK=block,
            num_warps=warps_of(block),
        )
    return out


def add_norm(x: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Twin of `add_norm_plain` in `ops.rows`: one read of each input, one write of each output.

    Args:
        x: (..., D), D at most 16384: a row is one block.
        y: As `x`, or None.
        weight: (D,), any float dtype; rounded to the dtype of `x` first.
        eps: Added to the mean square.

    Returns:
        x + y (`x` itself without `y`), and its norm.
    """
    if y is None:
        return x, _launch_norm(x, None, None, weight, eps, None)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return total, _launch_norm(x, y, None, weight, eps, total)


def sum_norm(h: Tensor, signal: Tensor | None, e: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Twin of `sum_norm_plain` in `ops.rows`; the sum stays in float32 and is not stored.

    Args:
        h: (..., D), D at most 16384: a row is one block.
        signal: (D,), rounded to the dtype of `h` first; or None.
        e: As `h`.
        weight: (D,), rounded likewise.
        eps: Added to the mean square.

    Returns:
        As `h`.
    """
    return _launch_norm(h, e, signal, weight, eps, None)


def sum_norm_norm(
    h: Tensor,
    signal: Tensor | None,
    e: Tensor,
    first: tuple[Tensor, float],
    second: tuple[Tensor, float],
) -> tuple[Tensor, Tensor]:
    """Twin of `sum_norm_norm_plain` in `ops.rows`: `sum_norm`, and the norm of what it gives.

    Args:
        h: (..., D), D at most 16384: a row is one block.
        signal: (D,), rounded to the dtype of `h` first; or None.
        e: As `h`.
        first: Weight (D,), rounded likewise, and what is added to the mean square.
        second: Likewise.

    Returns:
        Both norms, as `h`.
    """
    after = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    return _launch_norm(h, e, signal, *first, None, (after, *second)), after


# -- distances -------------------------------------------------------------------------------------


@triton.jit  # type: ignore[untyped-decorator]
def _relative_change(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    after, before, out, after_stride, before_stride, tiny, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    real = cols < WIDTH
    new = tl.load(after + row * after_stride + cols, mask=real, other=0.0).to(tl.float32)
    old = tl.load(before + row * before_stride + cols, mask=real, other=0.0).to(tl.float32)
    size = tl.maximum(tl.sqrt(tl.sum(new * new, 0)), tiny)
    step = new - old
    tl.store(out + row, tl.sqrt(tl.sum(step * step, 0)) / size)


def relative_change(after: Tensor, before: Tensor, tiny: float) -> Tensor:
    """Twin of `relative_change_plain` in `ops.rows`: (..., D) each -> (...) in float32."""
    out = torch.empty(after.shape[:-1], dtype=torch.float32, device=after.device)
    new, old = _rows(after), _rows(before)
    if out.numel():
        block = triton.next_power_of_2(after.shape[-1])
        _relative_change[(new.shape[0],)](
            new, old, out, new.stride(0), old.stride(0), tiny,
            WIDTH=after.shape[-1], BLOCK=block, num_warps=warps_of(block),
        )  # fmt: skip
    return out


# -- SwiGLU ----------------------------------------------------------------------------------------


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(  # type: ignore[no-untyped-def]
    gate_up, out, row_stride, HALF: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = cols < HALF
    line = gate_up + row * row_stride
    gate = tl.load(line + cols, mask=real, other=0.0).to(tl.float32)
    up = tl.load(line + HALF + cols, mask=real, other=0.0).to(tl.float32)
    # exp(-gate) may be infinite: gate / inf is the 0 that it should be.
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * HALF + cols, product.to(out.dtype.element_ty), mask=real)


def swiglu(gate_up: Tensor) -> Tensor:
    """Twin of `swiglu_plain` in `ops.rows`: (..., 2F) -> (..., F), rounded once."""
    half = gate_up.shape[-1] // 2
    out = torch.empty((*gate_up.shape[:-1], half), dtype=gate_up.dtype, device=gate_up.device)
    flat = _rows(gate_up)
    if out.numel():
        block = min(triton.next_power_of_2(half), TILE // 2)
        _swiglu[(flat.shape[0], triton.cdiv(half, block))](
            flat, out, flat.stride(0), HALF=half, BLOCK=block, num_warps=warps_of(block)
        )
    return out


# -- rotary ----------------------------------------------------------------------------------------


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    x,
    cos,
    sin,
    out,
    length,
    batch_stride,
    step_stride,
    head_stride,
    table_batch_stride,
    table_step_stride,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    batch, step = token // length, token % length
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    cols = tl.arange(0, 2 * BLOCK_PAIRS)
    real = (heads < HEADS)[:, None] & (cols < WIDTH)[None, :]
    at = batch * batch_stride + step * step_stride + heads[:, None] * head_stride + cols[None, :]
    tile = tl.load(x + at, mask=real, other=0.0).to(tl.float32)
    a, b = tl.split(tl.reshape(tile, (BLOCK_HEADS, BLOCK_PAIRS, 2)))
    pairs = tl.arange(0, BLOCK_PAIRS)
    known = pairs < WIDTH // 2
    entry = batch * table_batch_stride + step * table_step_stride + pairs
    c = tl.load(cos + entry, mask=known, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + entry, mask=known, other=0.0).to(tl.float32)[None, :]
    turned = tl.join(a * c - b * s, a * s + b * c)
    turned = tl.reshape(turned, (BLOCK_HEADS, 2 * BLOCK_PAIRS)).to(out.dtype.element_ty)
    to = (token * HEADS + heads[:, None]) * WIDTH + cols[None, :]
    tl.store(out + to, turned, mask=real)


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Twin of `rotate` in `ops.rotate`; `x` may be a slice of a fused projection.

    Args:
        x: (B, S, H, d), d even and adjacent; the other strides are free.
        cos: (S, d/2) or (B, S, d/2).
        sin: As `cos`, with the same strides.

    Returns:
        (B, S, H, d), contiguous.
    """
    batch, length, heads, width = x.shape
    if x.stride(-1) != 1:
        x = x.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        block_pairs = triton.next_power_of_2(width // 2)
        block_heads = min(triton.next_power_of_2(heads), max(TILE // (2 * block_pairs), 1))
        _rotate[(batch * length, triton.cdiv(heads, block_heads))](
            x,
            cos,
            sin,
            out,
            length,
            x.stride(0),
            x.stride(1),
            x.stride(2),
            cos.stride(0) if cos.dim() == 3 else 0,
            cos.stride(-2),
            HEADS=heads,
            WIDTH=width,
            BLOCK_HEADS=block_heads,
            BLOCK_PAIRS=block_pairs,
            num_warps=warps_of(2 * block_pairs * block_heads),
        )
    return out
