"""Routing for few rows: the experts of each, and the tiles that the matmuls work through.

While the scores are few, one launch does it all: there is a program per expert, every one ranks
all rows again (that costs nothing, they run side by side) and writes what concerns its own expert.
With more scores the rows are routed by one launch and planned by a second.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from open_mythos.kernels.dependent import dependent_launch


# Rows of one expert in a tile: the least that fills a tensor-core instruction.
TILE = 16
# Router scores up to which every program ranks all of them: 32 a thread.
ROUTE_SCORES = 8192
# Scores up to which 4 warps of a program are enough.
SINGLE_SCORES = 1024
# Scores that one program ranks where the rows are spread: 8 for each thread of a warp.
SPREAD_SCORES = 256
# Pairs of scores up to which comparing all is quicker than k maxima, one after the other.
RANK_PAIRS = tl.constexpr(4096)
# Lowest int64: the key of what is already picked, below that of any score, NaN included.
TAKEN = tl.constexpr(-(2**63))


class FewRoutes(NamedTuple):
    """Where the rows of a decoding step go.

    Attributes:
        ids: (N, k) int64, best first; equal scores go to the lower expert.
        weights: (N, k) float32, each row sums to one.
        load: (E,) int64, rows per expert.
        slots: (tiles * TILE,) int32, the flat choice (row * k + choice) in each slot of a tile;
            set up to the tile's count.
        tile_expert: (tiles,) int32, set for tiles in use.
        tile_count: (tiles,) int32, slots in use of each tile, 0 for the tiles left over.
    """

    ids: Tensor
    weights: Tensor
    load: Tensor
    slots: Tensor
    tile_expert: Tensor
    tile_count: Tensor


@triton.jit  # type: ignore[untyped-decorator]
def pick(logits, bias, row, live, K: tl.constexpr, E: tl.constexpr,  # type: ignore[no-untyped-def]
         BLOCK_E: tl.constexpr):  # fmt: skip
    """For rows (R,): place (R, BLOCK_E) of each expert in the order picked, K if not; weights."""
    col = tl.arange(0, BLOCK_E)
    real = (col < E)[None, :]
    at = logits + row.to(tl.int64)[:, None] * E + col[None, :]
    # From the L2: a dependent launch may read these before its `gdc_wait`.
    raw = tl.load(at, mask=live[:, None] & real, other=0.0, cache_modifier=".cg").to(tl.float32)
    score = raw + tl.load(bias + col, mask=col < E, other=0.0).to(tl.float32)[None, :]
    # Score and column in one integer: one maximum gives both, and no two keys are equal.
    bits = score.to(tl.int32, bitcast=True)
    key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32
    key = tl.where(real, key | (BLOCK_E - col).to(tl.int64)[None, :], TAKEN)
    place = tl.zeros_like(bits) + K
    if place.shape[0] * BLOCK_E * BLOCK_E <= RANK_PAIRS:
        above = key[:, None, :] > key[:, :, None]
        place = tl.minimum(tl.sum(above.to(tl.int32), axis=2), K)
    else:
        for j in range(K):
            hit = key == tl.max(key, axis=1)[:, None]
            place = tl.where(hit, j, place)
            key = tl.where(hit, TAKEN, key)
    picked = place < K
    top = tl.max(tl.where(picked, raw, float("-inf")), axis=1)
    share = tl.where(picked, tl.exp(raw - top[:, None]), 0.0)
    return place, share / tl.sum(share, axis=1)[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def route_rows(logits, bias, ids, weights, row, live,  # type: ignore[no-untyped-def]  # noqa: PLR0913
               K: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr):  # fmt: skip
    """Write ids and weights of rows (R,); returns where (R, BLOCK_E) an expert was picked."""
    place, share = pick(logits, bias, row, live, K, E, BLOCK_E)
    picked = (place < K) & live[:, None]
    at = row[:, None] * K + place
    col = tl.arange(0, BLOCK_E)[None, :] + tl.zeros_like(place)
    tl.store(ids + at, col.to(tl.int64), mask=picked)
    tl.store(weights + at, share, mask=picked)
    return picked


@triton.jit  # type: ignore[untyped-decorator]
def _plan_expert(expert, mine, choice, counts, load, slots, tile_expert, tile_count,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                 tiles, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr,
                 TILE: tl.constexpr):  # fmt: skip
    """Write the tiles of one expert: choices (M,) where `mine`; counts (BLOCK_E,) of all experts.

    Its first tile follows those of the lower experts, and the last expert clears what is left, so
    that no two programs write to one place.
    """
    bins = tl.arange(0, BLOCK_E)
    first = tl.sum(tl.where(bins < expert, (counts + TILE - 1) // TILE, 0), axis=0)
    count = tl.sum(tl.where(bins == expert, counts, 0), axis=0)
    own = (count + TILE - 1) // TILE
    rank = tl.cumsum(mine.to(tl.int32), axis=0) - 1
    tl.store(slots + first * TILE + rank, choice, mask=mine)
    tile = tl.arange(0, BLOCK_T)
    at = first + tile
    tl.store(tile_expert + at, tl.zeros_like(tile) + expert, mask=tile < own)
    tl.store(tile_count + at, tl.minimum(count - tile * TILE, TILE), mask=tile < own)
    tl.store(load + expert, count.to(tl.int64))
    last = expert == E - 1
    tl.store(
        tile_count + tile, tl.zeros_like(tile), mask=last & (tile >= first + own) & (tile < tiles)
    )


@triton.jit  # type: ignore[untyped-decorator]
def _all_kernel(logits, bias, ids, weights, load, slots, tile_expert, tile_count,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                rows, tiles, K: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr,
                BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr, TILE: tl.constexpr,
                PDL: tl.constexpr):  # fmt: skip
    """Route all rows; write the ids, the weights and the tiles of one expert."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    expert = tl.program_id(0)
    row = tl.arange(0, BLOCK_N)
    live = row < rows
    place, share = pick(logits, bias, row, live, K, E, BLOCK_E)
    counts = tl.sum(((place < K) & live[:, None]).to(tl.int32), axis=0)
    here = (tl.arange(0, BLOCK_E) == expert)[None, :]
    # A row picks an expert once at most, so that rows in order are choices in order.
    place = tl.sum(tl.where(here, place, 0), axis=1)
    share = tl.sum(tl.where(here, share, 0.0), axis=1)
    mine = (place < K) & live
    choice = row * K + place
    tl.store(ids + choice, tl.zeros_like(choice).to(tl.int64) + expert, mask=mine)
    tl.store(weights + choice, share, mask=mine)
    _plan_expert(expert, mine, choice, counts, load, slots, tile_expert, tile_count, tiles,
                 E, BLOCK_E, BLOCK_T, TILE)  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _route_kernel(logits, bias, ids, weights, rows, K: tl.constexpr, E: tl.constexpr,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                  BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Route BLOCK_N rows."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    route_rows(logits, bias, ids, weights, row, row < rows, K, E, BLOCK_E)


@triton.jit  # type: ignore[untyped-decorator]
def _plan_kernel(ids, load, slots, tile_expert, tile_count, choices, tiles,  # type: ignore[no-untyped-def]  # noqa: PLR0913
                 E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_T: tl.constexpr, TILE: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """The tiles of one expert, from the ids of all choices."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    expert = tl.program_id(0)
    choice = tl.arange(0, BLOCK_M)
    real = choice < choices
    theirs = tl.load(ids + choice, mask=real, other=0).to(tl.int32)
    counts = tl.histogram(theirs, BLOCK_E, mask=real)
    _plan_expert(expert, real & (theirs == expert), choice, counts, load, slots, tile_expert,
                 tile_count, tiles, E, BLOCK_E, BLOCK_T, TILE)  # fmt: skip


def tiles_for(choices: int, experts: int) -> int:
    """Most tiles that `choices` rows can fill: each expert leaves at most one incomplete."""
    return min(choices, (choices + min(experts, choices) * (TILE - 1)) // TILE)


def route_few(logits: Tensor, bias: Tensor, k: int, scores: int = ROUTE_SCORES) -> FewRoutes:
    """Pick k experts per row and plan the tiles; the plain twin is `ops.routing.route_plain`.

    Args:
        logits: (N, E), contiguous.
        bias: (E,) added for the choice alone.
        k: Experts per row.
        scores: Most scores, padded to powers of two, that are routed and planned by one launch.
    """
    rows, experts = logits.shape
    choices, tiles = rows * k, tiles_for(rows * k, experts)
    new, int64, int32 = logits.new_empty, torch.int64, torch.int32
    got = FewRoutes(
        ids=new((rows, k), dtype=int64),
        weights=new((rows, k), dtype=torch.float32),
        load=new((experts,), dtype=int64),
        slots=new((tiles * TILE,), dtype=int32),
        tile_expert=new((tiles,), dtype=int32),
        tile_count=new((tiles,), dtype=int32),
    )
    wide, block_n = triton.next_power_of_2(experts), triton.next_power_of_2(rows)
    pdl = dependent_launch(logits.device)
    shape = {"E": experts, "BLOCK_E": wide, "PDL": pdl, "launch_pdl": pdl}
    tiling = {"BLOCK_T": triton.next_power_of_2(tiles), "TILE": TILE}
    if block_n * wide <= scores:
        _all_kernel[(experts,)](
            logits, bias, *got, rows, tiles, K=k, BLOCK_N=block_n, **shape, **tiling,
            num_warps=4 if block_n * wide <= SINGLE_SCORES else 8,
        )  # fmt: skip
        return got
    block_n = max(1, SPREAD_SCORES // wide)
    _route_kernel[(triton.cdiv(rows, block_n),)](
        logits, bias, got.ids, got.weights, rows, K=k, BLOCK_N=block_n, **shape,
        num_warps=min(8, max(1, block_n * wide // SPREAD_SCORES)),
    )  # fmt: skip
    _plan_kernel[(experts,)](
        got.ids, *got[2:], choices, tiles, BLOCK_M=triton.next_power_of_2(choices),
        **shape, **tiling, num_warps=4,
    )  # fmt: skip
    return got
