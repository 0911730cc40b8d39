"""After a loop of rows that stand at different depths: who has left it, and with what.

In torch that is a dozen launches a loop, of 2 to 4 microseconds each on a few numbers a row, where
the loop's matmuls take 200.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_mythos.kernels.rows import warps_of


@triton.jit  # type: ignore[untyped-decorator]
def _settle(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    said,
    table,
    lanes,
    gone,
    depth,
    ends,
    write,
    done,
    out,
    rows,
    said_stride,
    table_stride,
    beyond,
    deepest,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_DONE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    was, now = tl.load(gone + row), tl.load(depth + row) + 1
    left = now >= tl.load(ends + row)
    if HAS_DONE:
        left = left | (tl.load(done + row) != 0)
    here = was == 0
    cols = tl.arange(0, BLOCK)
    kept = tl.load(said + row * said_stride + cols, mask=(cols < WIDTH) & here, other=0.0)
    to = table + tl.load(lanes + row) * table_stride + cols
    tl.store(to, kept, mask=(cols < WIDTH) & here)
    is_gone = tl.where(here & left, now, was)
    tl.store(out + row, is_gone)
    tl.store(out + rows + row, now)
    tl.store(out + 2 * rows + row, tl.minimum(now, deepest))
    tl.store(out + 3 * rows + row, tl.where(is_gone == 0, tl.load(write + row), beyond))


def settle(
    said: Tensor,
    table: Tensor,
    lanes: Tensor,
    now: tuple[Tensor, Tensor, Tensor, Tensor],
    done: Tensor | None,
    beyond: int,
    deepest: int,
) -> Tensor:
    """Twin of `settle_plain` in `ops.settle`.

    Args:
        said: (N, 1, D).
        table: (L, D), changed in place; contiguous.
        lanes: (N,) int64.
        now: (N,) int64 each, contiguous: gone, depth, ends, write.
        done: (N, 1) boolean, or None.
        beyond: See there.
        deepest: See there.

    Returns:
        (4, N) int64.
    """
    rows, width = said.shape[0], said.shape[-1]
    flat = said.reshape(rows, width)
    flat = flat if flat.stride(1) == 1 else flat.contiguous()
    out = torch.empty(4, rows, dtype=torch.int64, device=said.device)
    if rows:
        block = triton.next_power_of_2(width)
        gone, depth, ends, write = now
        _settle[(rows,)](
            flat,
            table,
            lanes,
            gone,
            depth,
            ends,
            write,
            gone if done is None else done.reshape(rows).view(torch.uint8),
            out,
            rows,
            flat.stride(0),
            table.stride(0),
            beyond,
            deepest,
            WIDTH=width,
            BLOCK=block,
            HAS_DONE=done is not None,
            num_warps=warps_of(block),
        )
    return out
