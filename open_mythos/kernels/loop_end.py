"""The end of a loop in one launch: injection, halting probability, and the ledger's entries."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.rows import warps_of


@triton.jit  # type: ignore[untyped-decorator]
def _loop_update(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    h,
    e,
    f,
    a,
    b,
    halt_w,
    halt_b,
    mean,
    spent,
    halted,
    loops,
    remainder,
    new,
    new_mean,
    sums,  # (5, N): mean square, p, weight, spent, remainder
    new_halted,
    new_loops,
    rows,
    threshold,
    WIDTH: tl.constexpr,
    INJECT: tl.constexpr,
    HALTING: tl.constexpr,
    CLOSE: tl.constexpr,
    FREEZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    real = cols < WIDTH
    at = row * WIDTH + cols
    kind = new.dtype.element_ty
    state = tl.load(f + at, mask=real, other=0.0).to(tl.float32)
    if INJECT:
        old = tl.load(h + at, mask=real, other=0.0).to(tl.float32)
        fed = tl.load(e + at, mask=real, other=0.0).to(tl.float32)
        decay = tl.load(a + cols, mask=real, other=0.0).to(tl.float32)
        gain = tl.load(b + cols, mask=real, other=0.0).to(tl.float32)
        state += decay * old + gain * fed
    if HALTING:
        was = tl.load(halted + row) != 0
        if FREEZE:
            state = tl.where(was, tl.load(h + at, mask=real, other=0.0).to(tl.float32), state)
    # What is scored and averaged is the state as it is handed on.
    state = state.to(kind)
    tl.store(new + at, state, mask=real)
    state = state.to(tl.float32)
    tl.store(sums + row, tl.sum(state * state, 0) / WIDTH)
    if HALTING:
        w = tl.load(halt_w + cols, mask=real, other=0.0).to(tl.float32)
        logit = tl.sum(w * state, 0) + tl.load(halt_b).to(tl.float32)
        p = 1.0 / (1.0 + tl.exp(-logit))
        before = tl.load(spent + row)
        paid = tl.where(was, 0.0, p)
        reached = (before + p >= threshold) & (was == 0)
        closing = (was == 0) if CLOSE else reached
        weight = tl.where(closing, 1.0 - before, paid)
        tl.store(sums + rows + row, p)
        tl.store(sums + 2 * rows + row, weight)
        tl.store(sums + 3 * rows + row, before + paid)
        kept = tl.load(remainder + row)
        tl.store(sums + 4 * rows + row, kept + tl.where(closing, weight, 0.0))
        tl.store(new_halted + row, (was | reached).to(tl.uint8))
        tl.store(new_loops + row, tl.load(loops + row) + tl.where(was, 0, 1))
        so_far = tl.load(mean + at, mask=real, other=0.0)
        tl.store(new_mean + at, so_far + weight * state, mask=real)


def loop_update(  # noqa: PLR0913 -- all that one loop's end reads
    h: Tensor,
    e: Tensor,
    f: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    halt: tuple[Tensor, Tensor] | None,
    ledger: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None,
    *,
    threshold: float,
    close: bool,
    freeze: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...] | None]:
    """Twin of `loop_update_plain` in `ops.loop_end`: injection, halting and ledger in one pass.

    Args:
        h: (..., D), the old state, D at most 16384: a row is one block.
        e: As `h`, the loop's input.
        f: As `h`, what the block said.
        a: (D,), the decay; None makes `f` the state.
        b: (D,), the gain of `e`; None with `a`.
        halt: Weight (D,) and bias (1,) of the halting logit; None with `ledger`.
        ledger: mean (..., D) and spent (...) in float32, halted (...) bool, loops (...) int64,
            remainder (...) float32; None where halting plays no part.
        threshold: Where a position halts.
        close: Whether whoever still runs pays the remainder now.
        freeze: Whether a position that had halted keeps its state.

    Returns:
        The state; its mean square (...), float32; and p, weight, then the next ledger in its order.
    """
    lead, width = h.shape[:-1], h.shape[-1]
    h, e, f = h.contiguous(), e.contiguous(), f.contiguous()
    rows = h.numel() // width
    new = torch.empty_like(h)
    sums = torch.empty((5, *lead), dtype=torch.float32, device=h.device)
    mean = spent = halted = loops = remainder = new_mean = new_halted = new_loops = new
    if ledger is not None:
        mean, spent, halted, loops, remainder = (t.contiguous() for t in ledger)
        halted = halted.view(torch.uint8)
        new_mean, new_halted = torch.empty_like(mean), torch.empty_like(halted)
        new_loops = torch.empty_like(loops)
    halt_w, halt_b = halt or (h, h)
    if rows:
        block = triton.next_power_of_2(width)
        _loop_update[(rows,)](
            h,
            e,
            f,
            h if a is None else a,
            h if b is None else b,
            halt_w,
            halt_b,
            mean,
            spent,
            halted,
            loops,
            remainder,
            new,
            new_mean,
            sums,
            new_halted,
            new_loops,
            rows,
            float(threshold),
            WIDTH=width,
            INJECT=a is not None,
            HALTING=ledger is not None,
            CLOSE=close,
            FREEZE=freeze,
            BLOCK=block,
            num_warps=warps_of(block),
        )
    square, p, weight, new_spent, new_remainder = sums.unbind()
    if ledger is None:
        return new, square, None
    booked = (new_mean, new_spent, new_halted.view(torch.bool), new_loops, new_remainder)
    return new, square, (p, weight, *booked)
