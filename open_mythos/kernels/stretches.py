"""Stretches: a context cut along its keys, so that one query has as many programs as it can use.

Each program takes one stretch of one row's keys (flash-decoding, Dao et al. 2023); the kernel here
joins what they found. The cut follows from lengths on the device: a short context in a large cache
still keeps all programs busy, and nothing is read on the host.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor


# About three programs per multiprocessor of an H100 or H200 (132). A constant, not a query of the
# device, so that a captured graph and a traced model always see the same grid.
PROGRAMS = 396
# The joining kernel holds all stretches of a row in registers.
MOST_SPLITS = 128
# Bytes of one tile of keys and values; times two or three stages in flight, times three programs.
TILE_BYTES = 40 * 1024


@dataclass(frozen=True)
class Tiling:
    """How the context is cut; fixed on the host, so fixed under graph capture.

    Attributes:
        tile: Keys per step of a program, a power of two from 16; also the least of a stretch.
        splits: Stretches per row and group of heads.
        warps: Warps per program.
        stages: Tiles in flight.
    """

    tile: int
    splits: int
    warps: int = 4
    stages: int = 3


def default_tiling(groups: int, capacity: int, row_bytes: int) -> Tiling:
    """Tiles near `TILE_BYTES`, and as many stretches as fill the GPU once.

    Args:
        groups: Programs that one stretch takes: batch x key heads x blocks of query heads.
        capacity: C, the most keys a row can hold.
        row_bytes: Bytes of one key and its value.
    """
    tile = 64
    while tile > 16 and tile * row_bytes > TILE_BYTES:
        tile //= 2
    if groups <= 2:
        # One row and one key head (a latent cache at batch 1) are short of programs.
        tile = min(tile, 32)
    splits = min(PROGRAMS // groups, -(-capacity // tile), MOST_SPLITS)
    return Tiling(tile, max(splits, 1))


def power(n: int) -> int:
    """The least power of two from n; plain Python, so that torch.compile traces it."""
    return 1 << (n - 1).bit_length()


@triton.jit  # type: ignore[untyped-decorator]
def stretch(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    lengths,
    starts,
    length_stride,
    start_stride,
    b,
    capacity,
    splits,
    HAS_STARTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """First and end of the keys that row b shows, and the keys per stretch (whole tiles)."""
    end = tl.minimum(tl.load(lengths + b * length_stride), capacity).to(tl.int32)
    first = end * 0
    if HAS_STARTS:
        first = tl.maximum(tl.load(starts + b * start_stride).to(tl.int32), 0)
    end = tl.maximum(first, end)
    per = (end - first + splits - 1) // splits
    per = (per + TILE - 1) // TILE * TILE
    return first, end, tl.maximum(per, TILE)


@triton.jit  # type: ignore[untyped-decorator]
def _join_stretches(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    mixed,
    lse,
    lengths,
    starts,
    out,
    length_stride,
    start_stride,
    capacity,
    splits,
    heads,
    WIDTH: tl.constexpr,
    HAS_STARTS: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS_2: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean of a row's stretches by their shares of the softmax, a block of columns per program."""
    row = tl.program_id(0).to(tl.int64)
    first, end, per = stretch(
        lengths,
        starts,
        length_stride,
        start_stride,
        row // heads,
        capacity,
        splits,
        HAS_STARTS,
        TILE,
    )
    split = tl.arange(0, SPLITS_2)
    col = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    written = split * per < end - first  # the others are uninitialised
    logs = tl.load(lse + row * splits + split, mask=written, other=float("-inf"))
    part = tl.load(
        mixed + (row * splits + split)[:, None] * WIDTH + col[None, :],
        mask=written[:, None] & (col < WIDTH)[None, :],
        other=0.0,
    )
    # A row that shows nothing has no stretch at all; -inf - -inf would be NaN.
    top = tl.max(tl.where(written, logs, -1.0e38), 0)
    share = tl.where(written, tl.exp2(logs - top), 0.0)
    total = tl.sum(share, 0)
    mean = tl.sum(part * share[:, None], 0) / tl.where(total > 0.0, total, 1.0)
    tl.store(out + row * WIDTH + col, mean, mask=col < WIDTH)


def join_stretches(
    mixed: Tensor,
    lse: Tensor,
    lengths: Tensor,
    starts: Tensor | None,
    out: Tensor,
    cut: Tiling,
    capacity: int,
) -> None:
    """Mean of what the stretches of each row and head found, into `out`.

    Args:
        mixed: (B, H, splits, f) float32, of each stretch that shows a key.
        lse: (B, H, splits) float32, base-2 logarithms of their sums of weights.
        lengths: (B,), as the stretches were cut.
        starts: (B,) or None, likewise.
        out: (B, 1, H, f), contiguous.
        cut: Whose stretches these are.
        capacity: Keys that a row can show.
    """
    batch, heads, splits, width = mixed.shape
    begins = lengths if starts is None else starts  # never read without HAS_STARTS
    # At most 4,096 numbers per program: 32 registers a thread.
    columns = 64 if splits <= 64 else 32
    _join_stretches[(batch * heads, -(-width // columns))](
        mixed,
        lse,
        lengths,
        begins,
        out,
        lengths.stride(0),
        begins.stride(0),
        capacity,
        splits,
        heads,
        WIDTH=width,
        HAS_STARTS=starts is not None,
        TILE=cut.tile,
        SPLITS_2=power(splits),
        COLUMNS=columns,
        num_warps=4,
    )
