"""Backward kernels of the routed experts: matmul + SwiGLU's gradient, gradients of weights."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.grouped_tiles import (
    ExpertPlan,
    Tile,
    fit,
    halves,
    locate,
    operand,
    read,
    row_tiles,
)
from open_mythos.kernels.interpreter import bound, multiply


# The fastest of seven each on an H200, at the forward's shape: 343 and 715 TFLOP/s.
HIDDEN_GRAD_TILE = Tile(128, 256, 64, 8, 4, bulk=True)
WEIGHT_GRAD_TILE = Tile(128, 256, 64, 8, 4, bulk=True)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu_grad(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    d_hidden, weight, at, first_col, live, pre_ptr, d_pre_ptr, F: tl.constexpr
):
    """Store the gradients of some columns of gate and up; their share of the weight's, per row."""
    cols = first_col + tl.arange(0, d_hidden.shape[1])
    inside = live[:, None] & (cols < F)[None, :]
    at = at[:, None] + cols[None, :]
    gate = tl.load(pre_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(pre_ptr + at + F, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    act = gate * share
    total = tl.sum(d_hidden * act * up, 1)
    d_hidden *= weight[:, None]
    d_gate = d_hidden * up * (share + act * (1.0 - share))
    tl.store(d_pre_ptr + at, d_gate.to(d_pre_ptr.dtype.element_ty), mask=inside)
    tl.store(d_pre_ptr + at + F, (d_hidden * act).to(d_pre_ptr.dtype.element_ty), mask=inside)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _hidden_grad_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    d_out_ptr,
    down_ptr,
    weight_ptr,
    order_ptr,
    ends_ptr,
    pre_ptr,
    d_pre_ptr,
    d_weight_ptr,
    experts,
    terms,
    D: tl.constexpr,
    F: tl.constexpr,
    TOPK: tl.constexpr,
    BULK: tl.constexpr,
    EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    across: tl.constexpr = (F + COLS - 1) // COLS
    pid = tl.program_id(0)
    expert, first, end = locate(ends_ptr, pid // across, experts, EXPERTS, ROWS)
    if expert >= experts:
        return
    rows = first + tl.arange(0, ROWS)
    choice = tl.load(order_ptr + tl.minimum(rows, end - 1))
    token = (choice // TOPK).to(tl.int64)
    cols = (pid % across) * COLS + tl.arange(0, COLS)
    deep = tl.arange(0, DEPTH)
    a_ptrs = d_out_ptr + token[:, None] * D + deep[None, :]
    if not BULK:
        b_ptrs = down_ptr + expert.to(tl.int64) * (D * F) + cols[None, :] * D + deep[:, None]
    fits = (cols < F)[None, :]
    acc = tl.zeros((ROWS, COLS), tl.float32)
    for step in tl.range(0, bound(terms), DEPTH):
        a = read(a_ptrs, (deep < D - step)[None, :], D % DEPTH == 0)
        if BULK:
            b = tl.trans(down_ptr.load([expert * F + (pid % across) * COLS, step]))
        else:
            inside = (deep < D - step)[:, None] & fits
            b = read(b_ptrs, inside, D % DEPTH == 0 and F % COLS == 0)
            b_ptrs += DEPTH
        acc = multiply(a, b, acc)
        a_ptrs += DEPTH
    weight = tl.load(weight_ptr + choice).to(tl.float32)
    at = rows.to(tl.int64) * (2 * F)
    first_col = (pid % across) * COLS
    live = rows < end
    total = tl.zeros((ROWS,), tl.float32)
    left, right = halves(acc, ROWS, COLS)
    for side in tl.static_range(2):
        part, other = halves(right if side else left, ROWS, COLS // 2)
        total += _swiglu_grad(part, weight, at, first_col, live, pre_ptr, d_pre_ptr, F)
        first_col += COLS // 4
        total += _swiglu_grad(other, weight, at, first_col, live, pre_ptr, d_pre_ptr, F)
        first_col += COLS // 4
    # One partial sum per column tile, each written once, in the order of the flat choices.
    d_weight_ptrs = d_weight_ptr + choice.to(tl.int64) * across + pid % across
    tl.store(d_weight_ptrs, total, mask=live)


def hidden_grad(
    d_out: Tensor, weights: Tensor, down: Tensor, pre: Tensor, plan: ExpertPlan
) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up before the SwiGLU, and of the routing weights.

    Args:
        d_out: (N, D) gradient of the output, contiguous; its rows are gathered while they load.
        weights: (N, k).
        down: (E, F, D), contiguous.
        pre: (N * k, 2F), gate and up as the forward saved them.
        plan: Of the choices.

    Returns:
        (N * k, 2F) in expert order; (N, k) float32. The plain twin is the derivative of
        `experts_reference`.
    """
    experts, width, dim = down.shape
    count = plan.order.shape[0]
    tile = fit(HIDDEN_GRAD_TILE, d_out)
    across = triton.cdiv(width, tile.cols)
    d_pre = torch.empty_like(pre)
    parts = torch.empty(count, across, dtype=torch.float32, device=d_out.device)
    grid = (row_tiles(count, experts, tile) * across,)
    _hidden_grad_kernel[grid](
        d_out,
        operand(down, tile, tile.cols, tile.depth),
        weights,
        plan.order,
        plan.ends,
        pre,
        d_pre,
        parts,
        experts,
        dim,
        D=dim,
        F=width,
        TOPK=weights.shape[1],
        BULK=tile.bulk,
        EXPERTS=triton.next_power_of_2(experts),
        ROWS=tile.rows,
        COLS=tile.cols,
        DEPTH=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return d_pre, parts.sum(1).view(weights.shape)


@triton.jit  # type: ignore[untyped-decorator]
def _weight_grad_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    a_ptr,
    b_ptr,
    order_ptr,
    ends_ptr,
    out_ptr,
    P: tl.constexpr,
    Q: tl.constexpr,
    TOPK: tl.constexpr,
    GATHER_A: tl.constexpr,
    BULK: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    down: tl.constexpr = (P + ROWS - 1) // ROWS
    across: tl.constexpr = (Q + COLS - 1) // COLS
    pid = tl.program_id(0)
    expert = pid // (down * across)
    tile = pid % (down * across)
    start = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ends_ptr + expert)
    p = (tile // across) * ROWS + tl.arange(0, ROWS)
    q = (tile % across) * COLS + tl.arange(0, COLS)
    deep = tl.arange(0, DEPTH)
    acc = tl.zeros((ROWS, COLS), tl.float32)
    choice = tl.load(order_ptr + tl.minimum(start + deep, end - 1), mask=start < end, other=0)
    for step in tl.range(bound(start), bound(end), DEPTH):
        rows = step + deep
        token = (choice // TOPK).to(tl.int64)[:, None]
        # The next block's indices load now: as loads of this block they would halve the pipeline.
        choice = tl.load(order_ptr + tl.minimum(rows + DEPTH, end - 1))
        # Rows past the end count zero: in the gathered operand, whatever the other one holds.
        live = (rows < end)[:, None]
        source = tl.minimum(rows, end - 1).to(tl.int64)[:, None]
        if GATHER_A:
            a = tl.load(a_ptr + token * P + p[None, :], mask=live & (p < P)[None, :], other=0.0)
            if BULK:
                b = b_ptr.load([step, (tile % across) * COLS])
            else:
                b = read(b_ptr + source * Q + q[None, :], (q < Q)[None, :], Q % COLS == 0)
        else:
            b = tl.load(b_ptr + token * Q + q[None, :], mask=live & (q < Q)[None, :], other=0.0)
            if BULK:
                a = a_ptr.load([step, (tile // across) * ROWS])
            else:
                a = read(a_ptr + source * P + p[None, :], (p < P)[None, :], P % ROWS == 0)
        acc = multiply(tl.trans(a), b, acc)
    at = expert.to(tl.int64) * (P * Q) + p[:, None].to(tl.int64) * Q + q[None, :]
    inside = (p < P)[:, None] & (q < Q)[None, :]
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=inside)


def weight_grad(a: Tensor, b: Tensor, plan: ExpertPlan, topk: int, *, gather_first: bool) -> Tensor:
    """Per expert, the sum over its rows of the outer products of `a` and `b`.

    One of the two holds a row per token and is gathered while it loads; the other a row per choice,
    in expert order. Experts without rows get exact zeros.

    Args:
        a: (N, P) tokens if `gather_first`, else (N * k, P).
        b: (N * k, Q) if `gather_first`, else (N, Q) tokens.
        plan: Of the choices.
        topk: k.
        gather_first: Which operand holds tokens.

    Returns:
        (E, P, Q). The plain twin is `F.grouped_mm(a_rows.t(), b_rows, offs=plan.ends)`.
    """
    experts, p, q = plan.ends.shape[0], a.shape[1], b.shape[1]
    tile = fit(WEIGHT_GRAD_TILE, a)
    out = a.new_empty(experts, p, q)
    grid = (experts * triton.cdiv(p, tile.rows) * triton.cdiv(q, tile.cols),)
    _weight_grad_kernel[grid](
        a if gather_first else operand(a, tile, tile.depth, tile.rows),
        operand(b, tile, tile.depth, tile.cols) if gather_first else b,
        plan.order,
        plan.ends,
        out,
        P=p,
        Q=q,
        TOPK=topk,
        GATHER_A=gather_first,
        BULK=tile.bulk,
        ROWS=tile.rows,
        COLS=tile.cols,
        DEPTH=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out
