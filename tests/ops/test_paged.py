"""Blocks that tables name: the plain definition against rows laid out by hand."""

import torch

from open_mythos.ops.decode import attend_lengths_reference
from open_mythos.ops.paged import (
    Blocks,
    attend_blocks,
    attend_blocks_latent,
    cuts_of,
    reads_blocks,
)


def test_rows_see_the_first_positions_of_their_lines() -> None:
    k, v = torch.randn(6, 3, 2, 8).double(), torch.randn(6, 3, 2, 4).double()
    table, lines = torch.tensor([[4, 0], [2, 5]]), torch.tensor([1, 0, 1])
    blocks = Blocks(table, lines, torch.tensor([0, 1, -1]), torch.tensor([5, 2, 0]))
    rows = [[2, 5], [5, 1], [1, 4]]
    q = torch.randn(3, 1, 4, 8).double()
    laid = [torch.stack([store[row].flatten(0, 1) for row in rows]) for store in (k, v)]
    want = attend_lengths_reference(q, *laid, blocks.ends, None, 0.3)
    assert torch.allclose(attend_blocks(q, k, v, blocks, 0.3), want)
    assert not attend_blocks(q, k, v, blocks, 0.3)[2].any()  # it sees nothing


def test_latents_are_key_and_value_in_one() -> None:
    c, rope = torch.randn(4, 3, 8).double(), torch.randn(4, 3, 2).double()
    blocks = Blocks(torch.tensor([[3, 1]]), torch.tensor([0]), torch.tensor([0]), torch.tensor([4]))
    q = torch.randn(1, 1, 3, 10).double()
    keys = torch.cat((c, rope), -1).unsqueeze(2)
    want = attend_blocks(q, keys, c.unsqueeze(2), blocks, 0.3)
    assert torch.allclose(attend_blocks_latent(q, c, rope, blocks, 0.3), want)


def test_cuts_cover_every_row_of_a_piece_once() -> None:
    firsts, counts = cuts_of([(0, 33), (40, 41)])
    rows = [row for at, n in zip(firsts, counts, strict=True) for row in range(at, at + n)]
    assert rows == [*range(33), 40]
    assert max(counts) == 16


def test_a_cpu_and_wide_floats_read_copies() -> None:
    assert not reads_blocks(torch.empty(1, 2, 4))
    assert not reads_blocks(torch.empty(1, 2, 4, dtype=torch.float64))
