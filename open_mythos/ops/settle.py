"""After a loop of rows that stand at different depths: who has left it, and with what."""

import torch
from torch import Tensor

from open_mythos.ops.rows import rows_backend


def settle(
    said: Tensor,
    table: Tensor,
    lanes: Tensor,
    now: tuple[Tensor, Tensor, Tensor, Tensor],
    done: Tensor | None,
    *,
    beyond: int,
    deepest: int,
) -> Tensor:
    """Keep what the loop said of the rows that are still in it, and let those go that are done.

    Args:
        said: (N, 1, D), what would be read of each row now.
        table: (L, D), changed in place: the line of each row that had not left before.
        lanes: (N,) int64, which line is whose; a line may be many rows' if nobody reads it.
        now: (N,) int64 each: loops after which a row left, 0 while it is going; loops done before
            this one; loops at most; where it writes.
        done: (N, 1) boolean, rows that leave before their last loop; None: nobody.
        beyond: Where those write that have left.
        deepest: The last loop, from 0.

    Returns:
        (4, N) int64: loops after which each has left, or 0; loops done; the loop that follows, at
        most `deepest`; where it writes then.
    """
    if rows_backend(said, table, lanes, *now, done) == "triton" and said.dtype == table.dtype:
        from open_mythos.kernels import settle as kernels  # noqa: PLC0415 -- triton is optional

        return kernels.settle(said, table, lanes, now, done, beyond, deepest)
    return settle_plain(said, table, lanes, now, done, beyond=beyond, deepest=deepest)


def settle_plain(
    said: Tensor,
    table: Tensor,
    lanes: Tensor,
    now: tuple[Tensor, Tensor, Tensor, Tensor],
    done: Tensor | None,
    *,
    beyond: int,
    deepest: int,
) -> Tensor:
    """`settle` in torch."""
    gone, depth, ends, write = now
    here, depth = gone == 0, depth + 1
    kept = torch.where(here.unsqueeze(1), said.squeeze(1), table.index_select(0, lanes))
    table.index_copy_(0, lanes, kept)
    left = depth >= ends if done is None else (depth >= ends) | done.squeeze(1)
    gone = torch.where(here & left, depth, gone)
    at, write = depth.clamp(max=deepest), torch.where(gone == 0, write, beyond)
    return torch.stack((gone, depth, at, write))
