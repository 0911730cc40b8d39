"""Attention of rows whose keys lie in blocks that tables name: pages of many requests at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.ops.backend import HAS_TRITON
from open_mythos.ops.decode import WIDEST, attend_lengths_reference


@dataclass(frozen=True)
class Blocks:
    """Where the keys of rows lie.

    Attributes:
        table: (R, M) int64, the blocks of R requests, in the order of their positions.
        lines: (N,) int64, the line of the table that each row reads.
        shift: (N,) or (1,) int64, added to what the table names.
        ends: (N,) int64, how many of its request's positions each row sees.
        cuts: (2, C) int64, where the rows are pieces of prompts: first row and number of rows,
            at most `POSITIONS`, that read one line, their `ends` ascending, and share a shift.
            None: each row is alone.
    """

    table: Tensor
    lines: Tensor
    shift: Tensor
    ends: Tensor
    cuts: Tensor | None = None


POSITIONS = 16


def cuts_of(pieces: Sequence[tuple[int, int]]) -> list[list[int]]:
    """`Blocks.cuts` of pieces that are rows start .. stop."""
    firsts = [(at, stop) for start, stop in pieces for at in range(start, stop, POSITIONS)]
    return [[at for at, _ in firsts], [min(POSITIONS, stop - at) for at, stop in firsts]]


def reads_blocks(*stores: Tensor) -> bool:
    """Whether kernels read these stores (P, size, ...) where they lie."""
    return (
        HAS_TRITON
        and all(store.is_cuda and store.shape[-1] <= WIDEST for store in stores)
        and {store.dtype for store in stores}
        in ({torch.bfloat16}, {torch.float16}, {torch.float32})
    )


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, scale: float) -> Tensor:
    """Attend from each row to the first positions of its request.

    The plain twin is `attend_blocks_plain`. Kernels where `reads_blocks`; they have no gradient,
    read no number on the host, and can be captured in a CUDA graph.

    Args:
        q: (N, 1, H, e).
        k: (P, size, K, e), K dividing H.
        v: (P, size, K, f).
        blocks: Where the keys lie.
        scale: Factor on the scores.

    Returns:
        (N, 1, H, f).
    """
    if not reads_blocks(k, v):
        return attend_blocks_plain(q, k, v, blocks, scale)
    lookup = (blocks.table, blocks.lines, blocks.shift)
    if blocks.cuts is None:
        from open_mythos.kernels.decode_attention import decode_paged  # noqa: PLC0415 -- optional

        return decode_paged(q, k, v, blocks.ends, lookup, scale)
    from open_mythos.kernels.piece_attention import attend_pieces  # noqa: PLC0415 -- as above

    return attend_pieces(q, k, v, blocks.ends, blocks.cuts, lookup, scale)


def attend_blocks_latent(
    q: Tensor, c_kv: Tensor, k_rope: Tensor, blocks: Blocks, scale: float
) -> Tensor:
    """The same over latents: all heads share the key [c_kv | k_rope] and the value c_kv.

    Args:
        q: (N, 1, H, r + p), rows that are alone.
        c_kv: (P, size, r).
        k_rope: (P, size, p).
        blocks: Where the entries lie.
        scale: Factor on the scores.

    Returns:
        (N, 1, H, r), in the latent space.
    """
    if reads_blocks(c_kv, k_rope):
        from open_mythos.kernels.decode_attention import (  # noqa: PLC0415 -- triton is optional
            decode_paged_latent,
        )

        lookup = (blocks.table, blocks.lines, blocks.shift)
        return decode_paged_latent(q, c_kv, k_rope, blocks.ends, lookup, scale)
    keys = torch.cat((c_kv, k_rope), dim=-1).unsqueeze(2)
    return attend_blocks_plain(q, keys, c_kv.unsqueeze(2), blocks, scale)


def attend_blocks_plain(q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, scale: float) -> Tensor:
    """What `attend_blocks` means: each row's blocks side by side, and the scores written out."""
    which = blocks.table.index_select(0, blocks.lines) + blocks.shift.unsqueeze(1)

    def laid(store: Tensor) -> Tensor:
        return store.index_select(0, which.flatten()).view(len(which), -1, *store.shape[2:])

    return attend_lengths_reference(q, laid(k), laid(v), blocks.ends, None, scale)
