"""Loss, hits and gradient of a block of logits, one pass over memory each way."""

import torch
import triton
import triton.language as tl
from torch import Tensor


# Columns per step: 32 a thread with 8 warps; a row of 32000 takes four steps.
BLOCK = 8192
WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _score(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    logits,
    targets,
    scores,
    row_stride,
    rows,
    z_loss,
    ignore_index,
    VOCAB: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * row_stride
    cols = tl.arange(0, BLOCK)
    target = tl.load(targets + row)
    if target == ignore_index:
        tl.store(scores + row, 0.0)
        tl.store(scores + rows + row, 0.0)
        tl.store(scores + 2 * rows + row, 0.0)
        if GRADIENT:
            nothing = tl.zeros((BLOCK,), dtype=logits.dtype.element_ty)
            for start in range(0, VOCAB, BLOCK):
                tl.store(line + start + cols, nothing, mask=start + cols < VOCAB)
    else:
        # A target outside the vocabulary makes the loss NaN: nothing on the device can raise.
        inside = (target >= 0) & (target < VOCAB)
        hit = tl.load(line + target, mask=inside, other=float("nan")).to(tl.float32)
        top = float("-inf")
        total = 0.0
        for start in range(0, VOCAB, BLOCK):
            here = start + cols
            x = tl.load(line + here, mask=here < VOCAB, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(x, 0))
            # -inf - -inf is NaN: a row that begins with a block of -inf measures from 0.
            base = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp(top - base) + tl.sum(tl.exp(x - base), 0)
            top = higher
        lse = top + tl.log(total)
        tl.store(scores + row, lse)
        tl.store(scores + rows + row, hit)
        tl.store(scores + 2 * rows + row, top)
        if GRADIENT:
            slope = 1.0 + 2.0 * z_loss * lse
            for start in range(0, VOCAB, BLOCK):
                here = start + cols
                x = tl.load(line + here, mask=here < VOCAB, other=float("-inf")).to(tl.float32)
                slopes = tl.exp(x - lse) * slope - tl.where(here == target, 1.0, 0.0)
                tl.store(line + here, slopes.to(logits.dtype.element_ty), mask=here < VOCAB)


def score_rows(
    logits: Tensor,
    targets: Tensor,
    *,
    z_loss: float,
    ignore_index: int,
    gradient: bool,
    block: int = BLOCK,
    warps: int = WARPS,
) -> Tensor:
    """Twin of `score_rows_plain` in `ops.head_loss`, for 16-bit and float32 logits.

    One program per row: an online log-sum-exp, then the gradient written over the logits. At most
    two reads and a write of the logits, and the second read mostly hits the L2 cache.

    Args:
        logits: (rows, V), columns adjacent; overwritten by the gradient if `gradient`.
        targets: (rows,) int64, contiguous.
        z_loss: Weight of the squared log-sum-exp.
        ignore_index: Target of rows that are not scored.
        gradient: Whether to form the gradient.
        block: Columns per step, a power of two.
        warps: Warps per row.

    Returns:
        (3, rows) float32: log-sum-exp, target's logit, largest logit; zeros where not scored. The
        target's logit is NaN where the target is outside the vocabulary.
    """
    rows, vocab = logits.shape
    scores = torch.empty(3, rows, dtype=torch.float32, device=logits.device)
    if rows:
        _score[(rows,)](
            logits,
            targets,
            scores,
            logits.stride(0),
            rows,
            float(z_loss),
            ignore_index,
            VOCAB=vocab,  # a constant of the model; known, it spares the last mask where it divides
            GRADIENT=gradient,
            BLOCK=min(block, triton.next_power_of_2(vocab)),
            num_warps=warps,
        )
    return scores
