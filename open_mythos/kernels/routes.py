"""Routing for many rows: the experts of each, and their order by a counting sort.

Three launches stand for a dozen of torch's, most of which a radix sort of the choices takes. Rows
are cut into blocks; each counts the rows of every expert, the counts before a block are summed, and
then each block knows where its choices go. Nothing is added atomically: the sort is stable, and
gives the same bits each time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.few_routes import pick, route_rows
from open_mythos.kernels.interpreter import bound


# Scores that one program ranks: 16 a thread.
SCORES = 2048
# Blocks whose counts one program sums at once.
CHUNK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _count(logits, bias, ids, weights, counts, rows, blocks, K: tl.constexpr, E: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
           BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr):  # fmt: skip
    """Route a block of rows, and count those of each expert."""
    block = tl.program_id(0)
    row = block * BLOCK_N + tl.arange(0, BLOCK_N)
    picked = route_rows(logits, bias, ids, weights, row, row < rows, K, E, BLOCK_E)
    expert = tl.arange(0, BLOCK_E)
    count = tl.sum(picked.to(tl.int32), axis=0)
    tl.store(counts + expert * blocks + block, count, mask=expert < E)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_before(counts, load, blocks, CHUNK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Replace each block's count of one expert by that of all blocks before; write the whole."""
    expert = tl.program_id(0)
    before = expert * 0
    for first in tl.range(0, bound(blocks), CHUNK):
        block = first + tl.arange(0, CHUNK)
        at = counts + expert * blocks + block
        count = tl.load(at, mask=block < blocks, other=0)
        tl.store(at, before + tl.cumsum(count, 0) - count, mask=block < blocks)
        before += tl.sum(count, 0)
    tl.store(load + expert, before.to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def _place(logits, bias, counts, load, order, inverse, ends, rows, blocks, K: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
           E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr):  # fmt: skip
    """Write where the choices of a block of rows go, and which choice is there."""
    block = tl.program_id(0)
    row = block * BLOCK_N + tl.arange(0, BLOCK_N)
    live = row < rows
    # Ranking again is quicker than reading what the first launch would have to write.
    place, _ = pick(logits, bias, row, live, K, E, BLOCK_E)
    picked = (place < K) & live[:, None]
    expert = tl.arange(0, BLOCK_E)
    total = tl.load(load + expert, mask=expert < E, other=0).to(tl.int32)
    end = tl.cumsum(total, 0)
    if block == 0:
        tl.store(ends + expert, end, mask=expert < E)
    before = tl.load(counts + expert * blocks + block, mask=expert < E, other=0)
    # A row picks an expert once at most, so that rows in order are choices in order.
    one = picked.to(tl.int32)
    at = (end - total + before)[None, :] + tl.cumsum(one, 0) - one
    choice = row[:, None] * K + place
    tl.store(order + at, choice.to(tl.int64), mask=picked)
    tl.store(inverse + choice, at.to(tl.int64), mask=picked)


@torch.library.custom_op("open_mythos::route_many", mutates_args=())
def route_many(
    logits: Tensor, bias: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pick k experts per row and sort the choices; the plain twin is `ops.routing.route_plain`.

    Args:
        logits: (N, E), 16 or 32 bits wide, N * k and E below 2^31.
        bias: (E,) added for the choice alone.
        k: Experts per row.

    Returns:
        ids (N, k) int64, best first, equal scores by the lower expert; weights (N, k) float32,
        differentiable in the logits; order, inverse (N * k,) int64 and ends (E,) int32 of the
        plan; load (E,) int64.
    """
    rows, experts = logits.shape
    logits, bias = logits.contiguous(), bias.contiguous()
    new, int64, int32 = logits.new_empty, torch.int64, torch.int32
    ids, weights = new((rows, k), dtype=int64), new((rows, k), dtype=torch.float32)
    order, inverse = new(rows * k, dtype=int64), new(rows * k, dtype=int64)
    if not rows:
        none = new(experts, dtype=int64).zero_()
        return ids, weights, order, inverse, none.to(int32), none
    ends, load = new(experts, dtype=int32), new(experts, dtype=int64)
    wide = triton.next_power_of_2(experts)
    block_n = min(max(SCORES // wide, 1), triton.next_power_of_2(rows))
    blocks = triton.cdiv(rows, block_n)
    counts = new((experts, blocks), dtype=int32)
    shape = {"K": k, "E": experts, "BLOCK_N": block_n, "BLOCK_E": wide}
    _count[(blocks,)](logits, bias, ids, weights, counts, rows, blocks, **shape, num_warps=4)
    chunk = min(CHUNK, triton.next_power_of_2(blocks))
    _sum_before[(experts,)](counts, load, blocks, CHUNK=chunk, num_warps=4)
    _place[(blocks,)](
        logits, bias, counts, load, order, inverse, ends, rows, blocks, **shape, num_warps=4
    )
    return ids, weights, order, inverse, ends, load


@route_many.register_fake
def _(logits: Tensor, _: Tensor, k: int) -> tuple[Tensor, ...]:
    rows, experts = logits.shape
    new, int64 = logits.new_empty, torch.int64
    return (
        new((rows, k), dtype=int64),
        new((rows, k), dtype=torch.float32),
        new(rows * k, dtype=int64),
        new(rows * k, dtype=int64),
        new(experts, dtype=torch.int32),
        new(experts, dtype=int64),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.like = inputs[0].shape, inputs[0].dtype
    ctx.save_for_backward(*output[:2])


def _differentiate(ctx: Any, _: Tensor | None, slope: Tensor | None, *__: Tensor | None) -> Any:
    if slope is None:
        return None, None, None
    ids, weights = ctx.saved_tensors
    shape, dtype = ctx.like
    slope = weights * (slope - (weights * slope).sum(-1, keepdim=True))
    logits = torch.zeros(shape, dtype=slope.dtype, device=slope.device)
    return logits.scatter(1, ids, slope).to(dtype), None, None


route_many.register_autograd(_differentiate, setup_context=_keep)
