"""Bookkeeping: what a round writes down about its rows; one launch each where there are kernels.

Nothing here is read on the host. `..._plain` is the definition in torch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.kernels.columns import CHANGING, IDLE, LANDING, LOOPING, READY, At, Out
from open_mythos.ops.backend import HAS_TRITON
from open_mythos.ops.rows import RowsBackend


@dataclass(frozen=True)
class Book:
    """What is known of rows on the device.

    Attributes:
        state: (rows + 1, WIDTH) int64, the last row nobody's.
        out: (6, rows) int64, what the last round said.
        table: (rows + 1, M) int64, their blocks.
        size: Positions of a block.
        filler: (7, 1) int64, the numbers of a row that is nobody's.
    """

    state: Tensor
    out: Tensor
    table: Tensor
    size: int
    filler: Tensor

    @property
    def nobody(self) -> int:
        """The row that fills up."""
        return self.state.shape[0] - 1

    @property
    def lookup(self) -> tuple[Tensor, int, Tensor]:
        """What kernels ask for where a row's blocks are."""
        return self.table, self.size, self.filler


def rounds_backend(state: Tensor) -> RowsBackend:
    """The implementation for a table of rows."""
    return "triton" if HAS_TRITON and state.is_cuda else "plain"


def numbers_of(book: Book, rows: Tensor, who: int | None) -> Tensor:
    """The numbers (7, n) of a call of `rows` (n,) at their positions.

    Those whose status is not `who` are nobody's; with None, those of nobody, and without a block.
    """
    if rounds_backend(book.state) == "triton":
        from open_mythos.kernels import rounds  # noqa: PLC0415 -- triton is optional

        return rounds.numbers_of(book.state, rows, who, book.lookup)
    return numbers_plain(book, rows, who)


def numbers_plain(book: Book, rows: Tensor, who: int | None) -> Tensor:
    """`numbers_of` in torch."""
    now = book.state.index_select(0, rows)
    return _call(book, rows, now, _here(now, who))


def picked(book: Book, members: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` of those that have left the loop or enter it; nobody fills them up.

    Returns:
        Rows (count,), and the numbers (7, count) of those that have left.
    """
    if rounds_backend(book.state) == "triton":
        from open_mythos.kernels import rounds  # noqa: PLC0415 -- as above

        return rounds.picked(book.state, members, count, book.lookup)
    return picked_plain(book, members, count)


def picked_plain(book: Book, members: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`picked` in torch."""
    waits = _waiting(book.state.index_select(0, members))
    place = waits.long().cumsum(0) - 1
    slot = torch.where(waits & (place < count), place, count)
    rows = members.new_full((count + 1,), book.nobody).scatter_(0, slot, members)[:count]
    return rows, numbers_plain(book, rows, LANDING)


def landed(
    book: Book, rows: Tensor, token: Tensor, sound: Tensor, read: Tensor | None = None
) -> Tensor:
    """Write down the tokens of rows that have left the loop, and who enters it.

    Args:
        book: Changed in place.
        rows: (n,) int64, picked up.
        token: (n,) int64, what each says if it does.
        sound: (n,) boolean, whether its logits are numbers.
        read: (n,) int64, loops after which it was read; None where nobody asks.

    Returns:
        The numbers (7, n) of those that enter.
    """
    if rounds_backend(book.state) == "triton":
        from open_mythos.kernels import rounds  # noqa: PLC0415 -- as above

        return rounds.keep(book.state, book.out, rows, token, sound, read, None, book.lookup)
    return landed_plain(book, rows, token, sound, read)


def landed_plain(
    book: Book, rows: Tensor, token: Tensor, sound: Tensor, read: Tensor | None = None
) -> Tensor:
    """`landed` in torch."""
    now = book.state.index_select(0, rows)
    _keep(book, rows, now, token, sound, read)
    return numbers_plain(book, rows, LOOPING)


def said(book: Book, rows: Tensor, token: Tensor, sound: Tensor, turns: int) -> None:
    """Write down the tokens of all `rows` that have a block, after so many loops; as `landed`."""
    if rounds_backend(book.state) == "triton":
        from open_mythos.kernels import rounds  # noqa: PLC0415 -- as above

        rounds.keep(book.state, book.out, rows, token, sound, None, turns, book.lookup)
        return
    said_plain(book, rows, token, sound, turns)


def said_plain(book: Book, rows: Tensor, token: Tensor, sound: Tensor, turns: int) -> None:
    """`said` in torch."""
    _keep(book, rows, book.state.index_select(0, rows), token, sound, None, turns)


def turned(book: Book, members: Tensor, gone: Tensor, turns: int) -> None:
    """Write down loops of all `members` that are in it, who left, and how many wait.

    Args:
        book: Changed in place.
        members: (n,) int64.
        gone: (n,) int64, loops after which each left; 0 where it did not.
        turns: Loops.
    """
    if rounds_backend(book.state) == "triton":
        from open_mythos.kernels import rounds  # noqa: PLC0415 -- as above

        rounds.turned(book.state, book.out, members, gone, turns)
        return
    turned_plain(book, members, gone, turns)


def turned_plain(book: Book, members: Tensor, gone: Tensor, turns: int) -> None:
    """`turned` in torch."""
    now = book.state.index_select(0, members)
    looped = now[:, At.STATUS] == LOOPING
    left = looped & (gone > 0)
    now[:, At.STATUS].masked_fill_(left, LANDING)
    now[:, At.DEPTH].add_(looped * turns)
    now[:, At.LEFT] = torch.where(left, gone, now[:, At.LEFT])
    book.state.index_copy_(0, members, now)
    book.out[Out.WAITING, :1].copy_(_waiting(now).sum(0, keepdim=True))


def _here(now: Tensor, who: int | None) -> Tensor:
    """(n,) boolean, as `numbers_of` has it."""
    if who is not None:
        return now[:, At.STATUS] == who
    return (now[:, At.STATUS] != IDLE) & (now[:, At.POSITION] < now[:, At.COVERED])


def _waiting(now: Tensor) -> Tensor:
    """(n,) boolean: rows that a round can pick up; without a block for it, none can enter."""
    status = now[:, At.STATUS]
    covered = now[:, At.POSITION] < now[:, At.COVERED]
    return (status == LANDING) | ((status == READY) & covered)


def _call(book: Book, rows: Tensor, now: Tensor, here: Tensor) -> Tensor:
    position, blocks = now[:, At.POSITION], book.table.shape[1]
    index = (position // book.size).clamp(max=blocks - 1)
    block = book.table.view(-1).index_select(0, rows * blocks + index)
    place = block * book.size + position % book.size
    numbers = torch.stack(
        (rows, position, place, now[:, At.DEPTH], now[:, At.ENDS], rows, now[:, At.TOKEN])
    )
    return torch.where(here, numbers, book.filler)


def _keep(
    book: Book,
    rows: Tensor,
    now: Tensor,
    token: Tensor,
    sound: Tensor,
    read: Tensor | None,
    turns: int | None = None,
) -> None:
    spoke = _here(now, LANDING if turns is None else None)
    loops = now[:, At.LEFT] if turns is None else torch.full_like(rows, turns)
    token = torch.where(spoke, token, now[:, At.TOKEN])
    count, position = now[:, At.SAID] + spoke, now[:, At.POSITION] + spoke
    ended = (now[:, At.STOPS :] == token.unsqueeze(1)).any(1) | (count >= now[:, At.MOST])
    ended = (spoke & (ended | ~sound)) | (now[:, At.STATUS] == IDLE)
    onward = LOOPING if turns is None else READY
    status = torch.where(position < now[:, At.COVERED], onward, READY)
    status, depth = torch.where(ended, IDLE, status), torch.zeros_like(rows)
    fresh = torch.stack((status, token, position, depth, count, loops), dim=1)
    book.state[:, :CHANGING].index_copy_(0, rows, fresh)
    lines = torch.where(spoke, rows, book.nobody), token, loops, depth if read is None else read
    book.out[: Out.WAITING, : len(rows)].copy_(torch.stack((*lines, sound.long())))
