"""Entries shown in loops that were left out, copied only where rows have left, a launch a store.

Nobody on the host knows who has left, so torch copies every row into every loop. Here a row's
programs read how many loops it has done, and mostly end with that.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from open_mythos.kernels.dependent import dependent_launch
from open_mythos.kernels.rows import warps_of


# Elements of an entry that one program copies.
SHARE = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _deepen(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    store,
    place,
    done,
    end,
    slots,
    stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Some elements of one row's entry, from the last loop that it has done into those behind."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    row = tl.program_id(0)
    at = tl.load(place + row)
    loop = tl.load(done + row)
    stop = tl.minimum(tl.load(end + row), slots)
    stop = tl.where(loop > 0, stop, 0)
    if loop < stop:
        cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        real = cols < WIDTH
        entry = tl.load(store + ((loop - 1) * stride + at) * WIDTH + cols, mask=real)
        while loop < stop:
            tl.store(store + (loop * stride + at) * WIDTH + cols, entry, mask=real)
            loop += 1


def deepen(store: Tensor, slots: int, place: Tensor, done: Tensor, end: Tensor) -> None:
    """Twin of `Pages.deepen_rows` for one store.

    Args:
        store: (slots * blocks, size, ...), contiguous, changed in place.
        slots: Loops.
        place: (N,) int64, block * size + offset, each once where something is copied.
        done: (N,) int64, loops done; 0 copies nothing.
        end: (N,) int64, loops that there would have been.
    """
    flat = store.flatten(0, 1)
    width = flat[0].numel()
    if place.shape[0]:
        block = min(triton.next_power_of_2(width), SHARE)
        pdl = dependent_launch(store.device)
        _deepen[(place.shape[0], triton.cdiv(width, block))](
            store, place, done, end, slots, len(flat) // slots,
            WIDTH=width, BLOCK=block, PDL=pdl, num_warps=warps_of(block), launch_pdl=pdl,
        )  # fmt: skip
