"""Rows taken apart: pieces that a compiler does not tell from tensors of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def cut(rows: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Pieces of `rows` (B, ...), one after the other, in the storage of `rows`.

    Like `rows.split(sizes)`, but autograd does not call them views. To a compiler a view, and a
    view of a tensor of another shape, are cases of their own, each of them a graph. Nothing may
    write into the pieces.
    """
    pieces: Sequence[Tensor] = torch.unsafe_split_with_sizes(rows, list(sizes))
    return tuple(pieces)


def span(rows: Tensor, which: slice) -> Tensor:
    """The neighbouring rows `which` of `rows` (B, ...), likewise; copied unless they come first.

    A piece that starts inside its storage is a case of its own, too.
    """
    rest = rows.shape[0] - which.stop
    piece = cut(rows, [which.start, which.stop - which.start, rest])[1]
    return piece.clone() if which.start else piece
