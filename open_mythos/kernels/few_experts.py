"""Routed experts for the few rows of a decoding step, from router logits to the combined output.

Such a step is bound by reading expert weights, and below a few rows by launches. Two ways:

* up to `DIRECT_ROWS` rows, two launches: each choice of a token is a matrix-vector product, and
  every program picks its own expert from the logits rather than wait for a routing kernel;
* above, four launches: route and plan, both matmuls on tiles of 16 rows of one expert, so that a
  weight is read about once however many rows share it, and the sum over the choices.

No shape, grid or allocation depends on a value and nothing is added atomically: everything can be
captured in a CUDA graph and gives the same bits each time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from open_mythos.kernels.dependent import dependent_launch
from open_mythos.kernels.few_linear import silu_times
from open_mythos.kernels.few_routes import TILE, pick, route_few, route_rows
from open_mythos.kernels.interpreter import multiply


# Rows up to which re-reading a shared expert costs less than planning: 17.1 us against 16.2 at 2
# rows of 4 of 32 experts of 1024 x 512, 28.5 against 19.6 at 4 (H200).
DIRECT_ROWS = 1
# Whether the second launch of these reads weights before the first is done.
EAGER_READS = True
# Rows from which twice as wide programs still fill the GPU: 11.8 us against 12.6 at 64 (H200).
MANY_ROWS = 32


@triton.jit  # type: ignore[untyped-decorator]
def _expand_direct_kernel(x, logits, bias, gate_up, hidden, ids, weights, load, rows,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                          D: tl.constexpr, F: tl.constexpr, K: tl.constexpr, E: tl.constexpr,
                          BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
                          BLOCK_F: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """BLOCK_F hidden channels of one choice; the programs of "choice" 0 write the routes."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    choice = tl.program_id(1) - 1
    if choice < 0:
        if tl.program_id(0) > 0:
            return
        every = tl.arange(0, BLOCK_N)
        picked = route_rows(logits, bias, ids, weights, every, every < rows, K, E, BLOCK_E)
        expert = tl.arange(0, BLOCK_E)
        tl.store(load + expert, tl.sum(picked.to(tl.int64), axis=0), mask=expert < E)
        return
    row = choice // K
    one = row + tl.arange(0, 1)
    place, _ = pick(logits, bias, one, one < rows, K, E, BLOCK_E)
    col = tl.arange(0, BLOCK_E)[None, :]
    expert = tl.sum(tl.sum(tl.where(place == choice - row * K, col, 0), axis=1), axis=0)
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    column = (tl.arange(0, 2) * F)[:, None] + f[None, :]  # of the gate, of the up map
    base = gate_up + expert.to(tl.int64) * (2 * D * F) + column[None, :, :]
    both = tl.zeros((2, BLOCK_F), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        mask = (d < D)[:, None, None] & (f < F)[None, None, :]
        weight = tl.load(base + (d * (2 * F))[:, None, None], mask=mask, other=0.0)
        v = tl.load(x + row.to(tl.int64) * D + d, mask=d < D, other=0.0).to(tl.float32)
        both += tl.sum(weight.to(tl.float32) * v[:, None, None], axis=0)
    gate, up = tl.split(tl.trans(both))
    tl.store(hidden + choice.to(tl.int64) * F + f, silu_times(gate, up), mask=f < F)


@triton.jit  # type: ignore[untyped-decorator]
def _contract_direct_kernel(hidden, logits, bias, ids, weights, down, plus, out,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                            D: tl.constexpr, F: tl.constexpr, K: tl.constexpr, E: tl.constexpr,
                            BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_R: tl.constexpr,
                            BLOCK_D: tl.constexpr, PLUS: tl.constexpr, EAGER: tl.constexpr,
                            PDL: tl.constexpr):  # fmt: skip
    """BLOCK_D output channels of one row: its choices are one long column of K * F inputs.

    EAGER reads weights while the expanding kernel still runs. It knows the experts from the
    logits, which are complete: every program of that kernel has waited for them before it let
    this one start. What that kernel writes is read after `gdc_wait`.
    """
    if PDL and not EAGER:
        gdc_wait()
    row = tl.program_id(1)
    j = tl.arange(0, BLOCK_K)
    if EAGER:
        one = row + tl.arange(0, 1)
        place, _ = pick(logits, bias, one, one >= 0, K, E, BLOCK_E)
        hit = place == j[:, None]
        chosen = tl.sum(tl.where(hit, tl.arange(0, BLOCK_E)[None, :], 0), axis=1)
    else:
        chosen = tl.load(ids + row.to(tl.int64) * K + j, mask=j < K, other=0).to(tl.int32)
    row = row.to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, K * F, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        real = r < K * F
        expert = tl.gather(chosen, tl.minimum(r // F, BLOCK_K - 1), 0).to(tl.int64)
        at = down + (expert * (F * D) + (r % F) * D)[:, None] + d[None, :]
        tile = tl.load(at, mask=real[:, None] & (d < D)[None, :], other=0.0)
        if EAGER:
            gdc_wait()
        share = tl.load(weights + row * K + r // F, mask=real, other=0.0)
        share *= tl.load(hidden + row * (K * F) + r, mask=real, other=0.0).to(tl.float32)
        total += tl.sum(tile.to(tl.float32) * share[:, None], axis=0)
    if PDL:
        gdc_launch_dependents()
    if PLUS:
        total += tl.load(plus + row * D + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(out + row * D + d, total, mask=d < D)


@triton.jit  # type: ignore[untyped-decorator]
def _expand_kernel(x, gate_up, slots, tile_expert, tile_count, hidden, D: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                   F: tl.constexpr, K: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr,
                   BLOCK_F: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """BLOCK_F hidden channels of one tile of rows."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    tile = tl.program_id(1)
    count = tl.load(tile_count + tile)
    if count == 0:
        return
    live = tl.arange(0, TILE) < count
    choice = tl.load(slots + tile * TILE + tl.arange(0, TILE), mask=live, other=0).to(tl.int64)
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    base = gate_up + tl.load(tile_expert + tile).to(tl.int64) * (2 * D * F) + f[None, :]
    rows = x + (choice // K)[:, None] * D
    gate = tl.zeros((TILE, BLOCK_F), tl.float32)
    up = tl.zeros((TILE, BLOCK_F), tl.float32)
    for start in tl.range(0, D, BLOCK_D, num_stages=STAGES):
        d = start + tl.arange(0, BLOCK_D)
        mask = (d < D)[:, None] & (f < F)[None, :]
        v = tl.load(rows + d[None, :], mask=live[:, None] & (d < D)[None, :], other=0.0)
        g = tl.load(base + d[:, None] * (2 * F), mask=mask, other=0.0)
        u = tl.load(base + d[:, None] * (2 * F) + F, mask=mask, other=0.0)
        gate, up = multiply(v, g, gate), multiply(v, u, up)
    at = hidden + choice[:, None] * F + f[None, :]
    tl.store(at, silu_times(gate, up), mask=live[:, None] & (f < F)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _contract_kernel(hidden, weights, down, slots, tile_expert, tile_count, parts,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                     D: tl.constexpr, F: tl.constexpr, TILE: tl.constexpr, BLOCK_F: tl.constexpr,
                     BLOCK_D: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """BLOCK_D output channels of one tile of rows, weighted, not yet summed over the choices."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    tile = tl.program_id(1)
    count = tl.load(tile_count + tile)
    if count == 0:
        return
    live = tl.arange(0, TILE) < count
    choice = tl.load(slots + tile * TILE + tl.arange(0, TILE), mask=live, other=0).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    base = down + tl.load(tile_expert + tile).to(tl.int64) * (F * D) + d[None, :]
    rows = hidden + choice[:, None] * F
    total = tl.zeros((TILE, BLOCK_D), tl.float32)
    for start in tl.range(0, F, BLOCK_F, num_stages=STAGES):
        f = start + tl.arange(0, BLOCK_F)
        v = tl.load(rows + f[None, :], mask=live[:, None] & (f < F)[None, :], other=0.0)
        mask = (f < F)[:, None] & (d < D)[None, :]
        total = multiply(v, tl.load(base + f[:, None] * D, mask=mask, other=0.0), total)
    share = tl.load(weights + choice, mask=live, other=0.0)
    at = parts + choice[:, None] * D + d[None, :]
    tl.store(at, total * share[:, None], mask=live[:, None] & (d < D)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _combine_kernel(parts, plus, out, D: tl.constexpr, K: tl.constexpr, BLOCK_D: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                    PLUS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Sum of a row's choices, in the order picked."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for j in range(K):
        total += tl.load(parts + (row * K + j) * D + d, mask=d < D, other=0.0)
    if PLUS:
        total += tl.load(plus + row * D + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(out + row * D + d, total, mask=d < D)


def few_experts(
    x: Tensor,
    logits: Tensor,
    bias: Tensor,
    k: int,
    gate_up: Tensor,
    down: Tensor,
    plus: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The routed experts' output for few rows, with the routing in it; inference only.

    The plain twin is `ops.routing.route_plain` followed by `ops.reference.experts_reference`.

    Args:
        x: (N, D) rows. This and all below contiguous.
        logits: (N, E) router scores.
        bias: (E,) float32, moves the choice and stays out of the weights.
        k: Experts per row.
        gate_up: (E, D, 2F), gate in the first F columns.
        down: (E, F, D).
        plus: (N, D) added to the output, or None.

    Returns:
        Output (N, D), ids (N, k) int64 and load (E,) int64.
    """
    if x.shape[0] <= DIRECT_ROWS:
        return few_experts_direct(x, logits, bias, k, gate_up, down, plus)
    return few_experts_tiled(x, logits, bias, k, gate_up, down, plus)


def few_experts_direct(
    x: Tensor,
    logits: Tensor,
    bias: Tensor,
    k: int,
    gate_up: Tensor,
    down: Tensor,
    plus: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`few_experts` in two launches, each choice on its own; right for any N, made for N = 1."""
    (rows, dim), (experts, width, _) = x.shape, down.shape
    ids = x.new_empty((rows, k), dtype=torch.int64)
    weights = x.new_empty((rows, k), dtype=torch.float32)
    load = x.new_empty((experts,), dtype=torch.int64)
    hidden = x.new_empty((rows * k, width))
    out = torch.empty_like(x)
    pdl = dependent_launch(x.device)
    block_f, block_o = 32, 16  # 7.2 and 4.1 us; 9.2 with 16 hidden channels (H200)
    _expand_direct_kernel[(triton.cdiv(width, block_f), rows * k + 1)](
        x, logits, bias, gate_up, hidden, ids, weights, load, rows,
        D=dim, F=width, K=k, E=experts, BLOCK_N=triton.next_power_of_2(rows),
        BLOCK_E=triton.next_power_of_2(experts), BLOCK_D=min(1024, triton.next_power_of_2(dim)),
        BLOCK_F=block_f, PDL=pdl, num_warps=8, launch_pdl=pdl,
    )  # fmt: skip
    _contract_direct_kernel[(triton.cdiv(dim, block_o), rows)](
        hidden, logits, bias, ids, weights, down, out if plus is None else plus, out,
        D=dim, F=width, K=k, E=experts, BLOCK_K=triton.next_power_of_2(k),
        BLOCK_E=triton.next_power_of_2(experts),
        BLOCK_R=min(2048, triton.next_power_of_2(k * width)), BLOCK_D=block_o,
        PLUS=plus is not None, EAGER=pdl and EAGER_READS, PDL=pdl, num_warps=16, launch_pdl=pdl,
    )  # fmt: skip
    return out, ids, load


def few_experts_tiled(
    x: Tensor,
    logits: Tensor,
    bias: Tensor,
    k: int,
    gate_up: Tensor,
    down: Tensor,
    plus: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`few_experts` in four launches, each expert's weights read once per tile of its rows."""
    (rows, dim), width = x.shape, down.shape[1]
    got = route_few(logits, bias, k)
    tiles = got.tile_count.shape[0]
    hidden = x.new_empty((rows * k, width))
    parts = x.new_empty((rows * k, dim), dtype=torch.float32)
    out = torch.empty_like(x)
    pdl = dependent_launch(x.device)
    plan = (got.slots, got.tile_expert, got.tile_count)
    block, deep = 64, 64 if x.element_size() == 2 else 32
    across = 128 if rows >= MANY_ROWS else 64
    _expand_kernel[(triton.cdiv(width, block), tiles)](
        x, gate_up, *plan, hidden, D=dim, F=width, K=k, TILE=TILE,
        BLOCK_D=deep, BLOCK_F=block, STAGES=4, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
    _contract_kernel[(triton.cdiv(dim, across), tiles)](
        hidden, got.weights, down, *plan, parts, D=dim, F=width, TILE=TILE,
        BLOCK_F=deep, BLOCK_D=across, STAGES=4, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
    wide = min(1024, triton.next_power_of_2(dim))
    _combine_kernel[(triton.cdiv(dim, wide), rows)](
        parts, out if plus is None else plus, out, D=dim, K=k, BLOCK_D=wide,
        PLUS=plus is not None, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip
    return out, got.ids, got.load
