"""The routed experts on a CPU as one differentiable op: every expert's rows in a block of its own.

Everything between the products runs once over the rows of all experts, and the way back to the
tokens is one pass; a loop of matmuls with autograd between them takes 1.5 times as long over a
training step (16 experts, dim 256, bfloat16). Counts are read on the host, inside the op: compiled
graphs hold it whole.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


# A CPU's 16-bit product compiles itself anew for every number of rows, 0.7 ms each time: blocks are
# filled up with zeros to numbers that come again.
STEP = 32
# Blocks of one height are multiplied at once, which in 16 bits halves the time of small products
# (16 x 128 x 256 x 256: 347 us for 823); taken where no more rows than this are rows of tokens.
WASTE = 1.5


@dataclass(frozen=True)
class Blocks:
    """Where each choice of a routing lies.

    Attributes:
        bounds: First row and the row after the last of each expert's block.
        source: (rows,) int64, the choice that each row holds; N * k where it is empty.
        place: (N, k) int64, the row of each choice.
        height: Rows of a block where all have the same number, else 0.
    """

    bounds: tuple[tuple[int, int], ...]
    source: Tensor
    place: Tensor
    height: int


def most_rows(choices: int, experts: int, dtype: torch.dtype) -> int:
    """Rows that blocks of so many choices may need, however they fall to the experts."""
    if dtype.itemsize > 2:
        return choices
    return max(int(WASTE * choices), choices + experts * (STEP - 1))


def lay_out(order: Tensor, inverse: Tensor, ends: Tensor, k: int, dtype: torch.dtype) -> Blocks:
    """Blocks of a plan's choices; in 16 bits their heights are multiples of `STEP`.

    Args:
        order: (N * k,), `Plan.order`.
        inverse: (N * k,), `Plan.inverse`.
        ends: (E,), `Plan.ends`.
        k: Choices per token.
        dtype: Of the rows.
    """
    choices, last = order.shape[0], ends.tolist()
    counts = [end - start for start, end in zip([0, *last], last, strict=False)]
    step = 1 if dtype.itemsize > 2 else STEP
    heights = [count + -count % step for count in counts]
    top = max(heights)
    even = step > 1 and top * len(heights) <= WASTE * choices
    if even:
        heights = [top] * len(heights)
    firsts = [sum(heights[:i]) for i in range(len(heights))]
    bounds = tuple((first, first + high) for first, high in zip(firsts, heights, strict=True))
    rows = torch.arange(choices)
    if step > 1:
        moved = [
            first + count - end for first, count, end in zip(firsts, counts, last, strict=True)
        ]
        rows += torch.tensor(moved).repeat_interleave(torch.tensor(counts), output_size=choices)
    source = torch.full((bounds[-1][1],), choices).scatter_(0, rows, order)
    return Blocks(bounds, source, rows[inverse].view(-1, k), top if even else 0)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x` (N, D) at `index`; zeros where it is N."""
    return F.pad(x, (0, 0, 0, 1)).index_select(0, index)


def _multiply(rows: Tensor, matrices: Tensor, blocks: Blocks, out: Tensor) -> Tensor:
    """Each block's rows (rows, K) times its matrix (E, K, M), into `out` (rows, M)."""
    if blocks.height:
        high = (-1, blocks.height)
        torch.bmm(rows.unflatten(0, high), matrices, out=out.unflatten(0, high))
        return out
    for (start, end), matrix in zip(blocks.bounds, matrices.unbind(), strict=True):
        if end > start:
            torch.mm(rows[start:end], matrix, out=out[start:end])
    return out


def _outer(a: Tensor, b: Tensor, blocks: Blocks, out: Tensor) -> Tensor:
    """The sum over each block's rows of a (rows, K) times b (rows, M), into `out` (E, K, M)."""
    if blocks.height:
        high = (-1, blocks.height)
        torch.bmm(a.unflatten(0, high).transpose(1, 2), b.unflatten(0, high), out=out)
        return out
    for (start, end), part in zip(blocks.bounds, out.unbind(), strict=True):
        if end > start:
            torch.mm(a[start:end].t(), b[start:end], out=part)
        else:
            part.zero_()
    return out


def _together(rows: Tensor, blocks: Blocks) -> Tensor:
    """The sum over each token's rows, (rows, D) to (N, D), in float32, rounded once.

    Summing bags of rows reads each once; taking the rows and summing them takes 7 times as long in
    bfloat16 (421 us for 56 at 512 tokens of 4 choices, dim 256).
    """
    return F.embedding_bag(blocks.place, rows, mode="sum")


@torch.library.custom_op("open_mythos::blocks_forward", mutates_args=())
def blocks_forward(  # noqa: PLR0913 -- an op's inputs are tensors, one by one
    x: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    order: Tensor,
    inverse: Tensor,
    ends: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """Output (N, D), and gate and up before the SwiGLU, which the backward needs.

    Arguments as in `block_experts`. The second is (`most_rows`, 2F), of which the blocks' rows
    are filled; without `save` it is empty.
    """
    k, width = weights.shape[1], down.shape[1]
    blocks = lay_out(order, inverse, ends, k, x.dtype)
    count = blocks.source.shape[0]
    room = most_rows(order.shape[0], down.shape[0], x.dtype) if save else count
    kept = x.new_empty(room, 2 * width)
    rows = _rows(x, blocks.source // k)
    pre = _multiply(rows, gate_up, blocks, kept[:count])
    gate, up = pre.chunk(2, dim=-1)
    share = _rows(weights.view(-1, 1), blocks.source)
    # The weight enters before `down`, so that the way back to the tokens is a plain sum.
    hidden = F.silu(gate).mul_(up).mul_(share)
    out = _together(_multiply(hidden, down, blocks, x.new_empty(count, x.shape[1])), blocks)
    return out, kept if save else kept.new_empty(0, 2 * width)


@blocks_forward.register_fake
def _(x: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
    _, gate_up, down, order, _, _, save = inputs
    room = most_rows(order.shape[0], down.shape[0], x.dtype) if save else 0
    return x.new_empty(x.shape), x.new_empty(room, gate_up.shape[2])


@torch.library.custom_op("open_mythos::blocks_backward", mutates_args=())
def blocks_backward(  # noqa: PLR0913 -- an op's inputs are tensors, one by one
    d_out: Tensor,
    x: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    order: Tensor,
    inverse: Tensor,
    ends: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weights, gate_up and down; arguments as `blocks_forward` took and gave."""
    k = weights.shape[1]
    blocks = lay_out(order, inverse, ends, k, x.dtype)
    token, count = blocks.source // k, blocks.source.shape[0]
    pre = kept[:count]
    gate, up = pre.chunk(2, dim=-1)
    share = _rows(weights.view(-1, 1), blocks.source)
    d_rows = _rows(d_out, token)
    d_hidden = _multiply(d_rows, down.transpose(1, 2), blocks, up.new_empty(up.shape))
    act = F.silu(gate)
    hidden = act * up
    d_share = (d_hidden * hidden).sum(-1, dtype=torch.float32)
    d_weights = d_share[blocks.place].to(weights.dtype)
    d_down = _outer(hidden.mul_(share), d_rows, blocks, torch.empty_like(down))
    d_hidden.mul_(share)
    d_pre = torch.empty_like(pre)
    d_gate, d_up = d_pre.chunk(2, dim=-1)
    torch.mul(d_hidden, act, out=d_up)
    d_gate.copy_(torch.ops.aten.silu_backward(d_hidden.mul_(up), gate))
    d_gate_up = _outer(_rows(x, token), d_pre, blocks, torch.empty_like(gate_up))
    d_x = _multiply(d_pre, gate_up.transpose(1, 2), blocks, d_rows)
    return _together(d_x, blocks), d_weights, d_gate_up, d_down


@blocks_backward.register_fake
def _(_: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weights, gate_up, down = (t.new_empty(t.shape) for t in inputs[:4])
    return x, weights, gate_up, down


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:7], output[1])


def _differentiate(ctx: Any, d_out: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = blocks_backward(d_out.contiguous(), *ctx.saved_tensors)
    return (*grads, None, None, None, None)  # order, inverse, ends, save


blocks_forward.register_autograd(_differentiate, setup_context=_keep)


def block_experts(
    x: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    order: Tensor,
    inverse: Tensor,
    ends: Tensor,
) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate(x)) * up(x)), on a CPU.

    The plain twin is `experts_reference`; in 16 bits the hidden values are rounded three times.

    Args:
        x: (N, D) tokens, N at least 1, bfloat16 or float32, as all that is multiplied.
        weights: (N, k) weight of each choice.
        gate_up: (E, D, 2F), gate in the first F columns.
        down: (E, F, D).
        order: (N * k,) int64, `Plan.order`.
        inverse: (N * k,) int64, `Plan.inverse`.
        ends: (E,) int32, `Plan.ends`.

    Returns:
        (N, D).
    """
    given = (x, weights, gate_up, down)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    ready = [t.contiguous() for t in (*given, order, inverse, ends)]
    out: Tensor = blocks_forward(*ready, save)[0]
    return out
