"""How the routed experts' matmuls are cut into tiles, and where each tile's rows lie."""

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class ExpertPlan(NamedTuple):
    """The order in which the rows of all experts lie, expert after expert.

    Attributes:
        order: (N * k,) int32, the flat choice (token * k + choice) of each row.
        inverse: (N * k,) int32 or int64, the row of each flat choice.
        ends: (E,) int32, the row after each expert's last.
    """

    order: Tensor
    inverse: Tensor
    ends: Tensor


class Tile(NamedTuple):
    """How a matmul is cut: one program makes rows x cols of the result, depth terms at a time."""

    rows: int
    cols: int
    depth: int
    warps: int
    stages: int
    bulk: bool = False  # operands that are not gathered come by the bulk copy engine (Hopper)


# float32 runs on the plain units: small tiles, or the accumulators spill.
WIDE_TILE = Tile(32, 32, 32, 4, 2)
# Other GPUs than Hopper and data-centre Blackwell have half the shared memory, or less: 48 KB here.
NARROW_TILE = Tile(128, 64, 32, 4, 3)


@cache
def _generation(device: torch.device) -> int:
    """9 for Hopper, 10 for data-centre Blackwell; the interpreter does what Hopper does."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9


def fit(tile: Tile, like: Tensor) -> Tile:
    """`tile` where the GPU holds it, for 16-bit operands; else a small one."""
    if like.element_size() != 2:
        return WIDE_TILE
    generation = _generation(like.device)
    if generation not in (9, 10):
        return NARROW_TILE
    return tile if generation == 9 else tile._replace(bulk=False)


def operand(matrix: Tensor, tile: Tile, rows: int, cols: int) -> Tensor | TensorDescriptor:
    """What a kernel takes for an operand that it reads in blocks of (rows, cols) as it lies."""
    flat = matrix.flatten(0, -2)
    return TensorDescriptor.from_tensor(flat, [rows, cols]) if tile.bulk else flat


def row_tiles(rows: int, experts: int, tile: Tile) -> int:
    """The most row tiles that `rows` rows can need, however they fall to the experts."""
    return rows // tile.rows + min(experts, rows)


@triton.jit  # type: ignore[untyped-decorator]
def locate(  # type: ignore[no-untyped-def]
    ends_ptr, tile, experts, EXPERTS: tl.constexpr, ROWS: tl.constexpr
):
    """Expert, first row and end row of a row tile; the expert is >= `experts` past the work."""
    each = tl.arange(0, EXPERTS)
    ends = tl.load(ends_ptr + each, mask=each < experts, other=0)
    starts = tl.load(ends_ptr + each - 1, mask=(each > 0) & (each < experts), other=0)
    tiles = (ends - starts + ROWS - 1) // ROWS
    last = tl.cumsum(tiles, 0)
    expert = tl.sum((last <= tile).to(tl.int32), 0)
    mine = each == expert
    first = tl.sum(tl.where(mine, starts + (tile - last + tiles) * ROWS, 0), 0)
    end = tl.sum(tl.where(mine, ends, 0), 0)
    # Trailing empty experts share the last tile count, so a tile past the work counts them all.
    return tl.where(tile < tl.max(last, 0), expert, experts), first, end


@triton.jit  # type: ignore[untyped-decorator]
def halves(  # type: ignore[no-untyped-def]
    block, ROWS: tl.constexpr, COLS: tl.constexpr
):
    """The left and right half of a block (ROWS, COLS): epilogues go part by part, or spill."""
    return tl.split(tl.permute(tl.reshape(block, (ROWS, 2, COLS // 2)), (0, 2, 1)))


@triton.jit  # type: ignore[untyped-decorator]
def read(  # type: ignore[no-untyped-def]
    ptrs, mask, WHOLE: tl.constexpr
):
    """A block; the mask is compiled only where the shape needs one."""
    if WHOLE:
        return tl.load(ptrs)
    return tl.load(ptrs, mask=mask, other=0.0)
