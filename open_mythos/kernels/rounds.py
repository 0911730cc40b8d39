"""What a round writes down about its rows, a launch for what torch does in twenty.

A row is a few integers in a table (`kernels.columns`). Rows are given by their numbers, each once
but for nobody, the table's last: several programs may write that one, all the same, and its status
as it was.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from open_mythos.kernels import columns
from open_mythos.kernels.columns import At, Number, Out
from open_mythos.kernels.dependent import dependent_launch


# Where a table and its rows are called for: the table (R, M) of blocks, positions of a block, and
# the numbers (7, 1) of a row that is nobody's.
Lookup = tuple[Tensor, int, Tensor]

SHARE = 32  # rows of one program, where none needs to know of the others
MOST = 1024  # rows that one program holds at once, where all go through one
ROWS_OF_WARP = 64

STATUS, TOKEN, POSITION = (tl.constexpr(int(at)) for at in (At.STATUS, At.TOKEN, At.POSITION))
DEPTH, SAID, LEFT = (tl.constexpr(int(at)) for at in (At.DEPTH, At.SAID, At.LEFT))
ENDS, LIMIT, COVERED = (tl.constexpr(int(at)) for at in (At.ENDS, At.MOST, At.COVERED))
STOPS_FROM, STOPS = tl.constexpr(int(At.STOPS)), tl.constexpr(columns.STOPS)
IDLE, READY = tl.constexpr(columns.IDLE), tl.constexpr(columns.READY)
LOOPING, LANDING = tl.constexpr(columns.LOOPING), tl.constexpr(columns.LANDING)
WIDTH = tl.constexpr(columns.WIDTH)
OUT_TOKEN, OUT_LOOPS, OUT_READ, OUT_SOUND, OUT_WAITING = (
    tl.constexpr(int(line)) for line in (Out.TOKEN, Out.LOOPS, Out.READ, Out.SOUND, Out.WAITING)
)
N_POSITION, N_PLACE, N_LOOPS, N_ENDS, N_ROW, N_TOKEN = (
    tl.constexpr(int(line)) for line in list(Number)[1:]
)


@triton.jit
def _waits(line, live):  # type: ignore[no-untyped-def]
    """Whether rows at `line` can be picked up."""
    status = tl.load(line + STATUS, mask=live, other=IDLE)
    position = tl.load(line + POSITION, mask=live, other=0)
    covered = tl.load(line + COVERED, mask=live, other=0)
    return (status == LANDING) | ((status == READY) & (position < covered))


@triton.jit  # type: ignore[untyped-decorator]
def _here(status, position, covered, WHO: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether rows have the status WHO; below 0, whether they are anybody's and have a block."""
    if WHO < 0:
        found = (status != IDLE) & (position < covered)
    else:
        found = status == WHO
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _call(numbers, lines, slot, live, row, position, depth, ends, token, here,  # type: ignore[no-untyped-def]  # noqa: PLR0913
          table, filler, blocks, SIZE: tl.constexpr):  # fmt: skip
    """Write numbers of rows into the slots that are `live`; of nobody's where not `here`."""
    index = tl.minimum(position // SIZE, blocks - 1)
    block = tl.load(table + row * blocks + index, mask=live & here, other=0)
    place = block * SIZE + position % SIZE
    to = numbers + slot
    tl.store(to, tl.where(here, row, tl.load(filler)), mask=live)
    to += lines
    tl.store(to, tl.where(here, position, tl.load(filler + N_POSITION)), mask=live)
    to += lines
    tl.store(to, tl.where(here, place, tl.load(filler + N_PLACE)), mask=live)
    to += lines
    tl.store(to, tl.where(here, depth, tl.load(filler + N_LOOPS)), mask=live)
    to += lines
    tl.store(to, tl.where(here, ends, tl.load(filler + N_ENDS)), mask=live)
    to += lines
    tl.store(to, tl.where(here, row, tl.load(filler + N_ROW)), mask=live)
    to += lines
    tl.store(to, tl.where(here, token, tl.load(filler + N_TOKEN)), mask=live)


@triton.jit  # type: ignore[untyped-decorator]
def _numbers(state, rows, numbers, table, filler, count, blocks,  # type: ignore[no-untyped-def]  # noqa: PLR0913
             SIZE: tl.constexpr, WHO: tl.constexpr, BLOCK: tl.constexpr,
             PDL: tl.constexpr):  # fmt: skip
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = slot < count
    row = tl.load(rows + slot, mask=live, other=0)
    line = state + row * WIDTH
    position = tl.load(line + POSITION, mask=live, other=0)
    here = _here(
        tl.load(line + STATUS, mask=live, other=IDLE), position,
        tl.load(line + COVERED, mask=live, other=0), WHO,
    )  # fmt: skip
    _call(
        numbers, count, slot, live, row, position,
        tl.load(line + DEPTH, mask=live, other=0), tl.load(line + ENDS, mask=live, other=0),
        tl.load(line + TOKEN, mask=live, other=0), here, table, filler, blocks, SIZE,
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _picked(state, members, rows, numbers, table, filler, nobody, blocks,  # type: ignore[no-untyped-def]  # noqa: PLR0913
            N: tl.constexpr, COUNT: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
            PDL: tl.constexpr):  # fmt: skip
    """One program: who waits is put into the next slot, and nobody into those left over."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    held = tl.program_id(0) * 0
    for start in tl.static_range(0, N, BLOCK):
        at = start + tl.arange(0, BLOCK)
        row = tl.load(members + at, mask=at < N, other=0)
        line = state + row * WIDTH
        waits = _waits(line, at < N)
        slot = held + tl.cumsum(waits.to(tl.int32), 0) - 1
        held += tl.sum(waits.to(tl.int32), 0)
        live = waits & (slot < COUNT)
        tl.store(rows + slot, row, mask=live)
        _call(
            numbers, COUNT, slot, live, row, tl.load(line + POSITION, mask=live, other=0),
            tl.load(line + DEPTH, mask=live, other=0), tl.load(line + ENDS, mask=live, other=0),
            tl.load(line + TOKEN, mask=live, other=0),
            tl.load(line + STATUS, mask=live, other=IDLE) == LANDING, table, filler, blocks, SIZE,
        )  # fmt: skip
    for start in tl.static_range(0, COUNT, BLOCK):
        spare = start + tl.arange(0, BLOCK)
        none = tl.zeros_like(spare).to(tl.int64)
        empty = (spare >= held) & (spare < COUNT)
        tl.store(rows + spare, none + nobody, mask=empty)
        _call(
            numbers, COUNT, spare, empty, none, none, none, none, none, spare < 0, table, filler,
            blocks, SIZE,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _keep(state, out, rows, tokens, sound, read, numbers, table, filler,  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0915
          count, lines, nobody, turns, blocks, READ: tl.constexpr, STRAIGHT: tl.constexpr,
          SIZE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = slot < count
    row = tl.load(rows + slot, mask=live, other=0)
    line = state + row * WIDTH
    status = tl.load(line + STATUS, mask=live, other=IDLE)
    position = tl.load(line + POSITION, mask=live, other=0)
    covered = tl.load(line + COVERED, mask=live, other=0)
    if STRAIGHT:
        spoke = _here(status, position, covered, -1)
        loops = tl.zeros_like(row) + turns
    else:
        spoke = _here(status, position, covered, LANDING)
        loops = tl.load(line + LEFT, mask=live, other=0)
    token = tl.where(spoke, tl.load(tokens + slot, mask=live, other=0),
                     tl.load(line + TOKEN, mask=live, other=0))  # fmt: skip
    number = (tl.load(sound + slot, mask=live, other=0) != 0).to(tl.int64)
    said = tl.load(line + SAID, mask=live, other=0) + spoke.to(tl.int64)
    position += spoke.to(tl.int64)
    stops = STOPS_FROM + tl.arange(0, STOPS)
    ending = tl.load(line[:, None] + stops[None, :], mask=live[:, None], other=-1)
    stopped = tl.max((ending == token[:, None]).to(tl.int32), 1) > 0
    ended = stopped | (said >= tl.load(line + LIMIT, mask=live, other=0)) | (number == 0)
    ended = (spoke & ended) | (status == IDLE)
    if STRAIGHT:
        status = tl.where(ended, IDLE, READY)
    else:
        status = tl.where(ended, IDLE, tl.where(position < covered, LOOPING, READY))
    status = status.to(tl.int64)
    zero = tl.zeros_like(row)
    tl.store(line + STATUS, status, mask=live)
    tl.store(line + TOKEN, token, mask=live)
    tl.store(line + POSITION, position, mask=live)
    tl.store(line + DEPTH, zero, mask=live)
    tl.store(line + SAID, said, mask=live)
    tl.store(line + LEFT, loops, mask=live)
    tl.store(out + slot, tl.where(spoke, row, nobody), mask=live)
    tl.store(out + OUT_TOKEN * lines + slot, token, mask=live)
    tl.store(out + OUT_LOOPS * lines + slot, loops, mask=live)
    noted = zero
    if READ:
        noted = tl.load(read + slot, mask=live, other=0)
    tl.store(out + OUT_READ * lines + slot, noted, mask=live)
    tl.store(out + OUT_SOUND * lines + slot, number, mask=live)
    if not STRAIGHT:
        ends = tl.load(line + ENDS, mask=live, other=0)
        _call(numbers, count, slot, live, row, position, zero, ends, token, status == LOOPING,
              table, filler, blocks, SIZE)  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _turned(state, out, members, gone, lines, turns,  # type: ignore[no-untyped-def]  # noqa: PLR0913
            N: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """One program, since all are counted."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    waiting = tl.program_id(0).to(tl.int64) * 0
    for start in tl.static_range(0, N, BLOCK):
        at = start + tl.arange(0, BLOCK)
        live = at < N
        row = tl.load(members + at, mask=live, other=0)
        line = state + row * WIDTH
        status = tl.load(line + STATUS, mask=live, other=IDLE)
        looped = status == LOOPING
        after = tl.load(gone + at, mask=live & looped, other=0)
        left = looped & (after > 0)
        depth = tl.load(line + DEPTH, mask=live, other=0) + turns
        tl.store(line + STATUS, tl.zeros_like(row) + LANDING, mask=left)
        tl.store(line + DEPTH, depth, mask=looped)
        tl.store(line + LEFT, after, mask=left)
        position = tl.load(line + POSITION, mask=live, other=0)
        covered = tl.load(line + COVERED, mask=live, other=0)
        waits = left | (status == LANDING) | ((status == READY) & (position < covered))
        waiting += tl.sum(waits.to(tl.int64), 0)
    tl.store(out + OUT_WAITING * lines, waiting)


def _whole(count: int) -> dict[str, int]:
    """Of a launch whose one program goes through all rows."""
    block = min(triton.next_power_of_2(count), MOST)
    return {"BLOCK": block, "num_warps": max(block // ROWS_OF_WARP, 1)}


def numbers_of(state: Tensor, rows: Tensor, who: int | None, lookup: Lookup) -> Tensor:
    """Twin of `numbers_plain` in `engine.bookkeeping`: (7, n) for rows (n,)."""
    table, size, filler = lookup
    count, pdl = rows.shape[0], dependent_launch(state.device)
    numbers = rows.new_empty(len(Number), count)
    _numbers[(triton.cdiv(count, SHARE),)](
        state, rows, numbers, table, filler, count, table.shape[1],
        SIZE=size, WHO=-1 if who is None else who, BLOCK=SHARE, PDL=pdl, num_warps=1,
        launch_pdl=pdl,
    )  # fmt: skip
    return numbers


def picked(state: Tensor, members: Tensor, count: int, lookup: Lookup) -> tuple[Tensor, Tensor]:
    """Twin of `picked_plain` in `engine.bookkeeping`: rows (count,), numbers (7, count)."""
    table, size, filler = lookup
    rows, numbers = members.new_empty(count), members.new_empty(len(Number), count)
    n, pdl = members.shape[0], dependent_launch(state.device)
    _picked[(1,)](
        state, members, rows, numbers, table, filler, state.shape[0] - 1, table.shape[1],
        N=n, COUNT=count, SIZE=size, PDL=pdl, **_whole(n), launch_pdl=pdl,
    )  # fmt: skip
    return rows, numbers


def keep(  # noqa: PLR0913 -- two tables, and what is written into them
    state: Tensor,
    out: Tensor,
    rows: Tensor,
    token: Tensor,
    sound: Tensor,
    read: Tensor | None,
    turns: int | None,
    lookup: Lookup,
) -> Tensor:
    """Twin of `said_plain`, where `turns` are given, and of `landed_plain`.

    Args:
        state: (R + 1, WIDTH), changed in place.
        out: (6, R), contiguous, changed in place.
        rows: (n,) int64.
        token: (n,) int64.
        sound: (n,) boolean.
        read: (n,) int64, or None.
        turns: Loops of a straight round, or None.
        lookup: Where the rows' blocks are looked up.

    Returns:
        Numbers (7, n) of rows that enter the loop; with `turns` they are not set.
    """
    table, size, filler = lookup
    count, pdl = rows.shape[0], dependent_launch(state.device)
    numbers = rows.new_empty(len(Number), count)
    _keep[(triton.cdiv(count, SHARE),)](
        state, out, rows, token, sound, rows if read is None else read, numbers, table, filler,
        count, out.shape[1], state.shape[0] - 1, turns or 0, table.shape[1],
        READ=read is not None, STRAIGHT=turns is not None, SIZE=size, BLOCK=SHARE, PDL=pdl,
        num_warps=1, launch_pdl=pdl,
    )  # fmt: skip
    return numbers


def turned(state: Tensor, out: Tensor, members: Tensor, gone: Tensor, turns: int) -> None:
    """Twin of `turned_plain` in `engine.bookkeeping`."""
    n, pdl = members.shape[0], dependent_launch(state.device)
    _turned[(1,)](
        state, out, members, gone, out.shape[1], turns,
        N=n, PDL=pdl, **_whole(n), launch_pdl=pdl,
    )  # fmt: skip
