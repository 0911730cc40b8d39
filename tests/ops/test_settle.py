"""Letting rows go: the plain definition, row by row."""

import torch

from open_mythos.ops.settle import settle


def test_rows_keep_what_they_left_with_and_write_no_more() -> None:
    said = torch.tensor([[[1.0]], [[2.0]], [[3.0]], [[4.0]]])
    table, lanes = torch.zeros(5, 1), torch.tensor([4, 0, 2, 1])
    gone, depth = torch.tensor([0, 2, 0, 0]), torch.tensor([1, 3, 3, 0])
    ends, write = torch.tensor([4, 4, 4, 4]), torch.tensor([10, 11, 12, 13])
    done = torch.tensor([[True], [True], [False], [False]])
    out = settle(said, table, lanes, (gone, depth, ends, write), done, beyond=77, deepest=3)
    assert out.tolist() == [
        [2, 2, 4, 0],  # left early; before; at its end; not at all
        [2, 4, 4, 1],
        [2, 3, 3, 1],
        [77, 77, 77, 13],
    ]
    assert table.flatten().tolist() == [0.0, 4.0, 3.0, 0.0, 1.0]
    out = settle(said, table, lanes, (gone, depth, ends, write), None, beyond=77, deepest=3)
    assert out[0].tolist() == [0, 2, 4, 0]
