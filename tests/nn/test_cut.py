"""Pieces of rows: the values and gradients of a split, without its views."""

import torch
from hypothesis import given, strategies as st

from open_mythos.nn.cut import cut, span


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_pieces_are_those_of_a_split(sizes: list[int]) -> None:
    rows = torch.randn(sum(sizes), 3, requires_grad=True)
    by = torch.randn(sum(sizes), 3)
    pieces = cut(rows * 2, sizes)
    want = (rows * 2).split(sizes)
    assert [p.tolist() for p in pieces] == [p.tolist() for p in want]
    sum((p * b).sum() for p, b in zip(pieces, by.split(sizes), strict=True)).backward()
    assert torch.equal(rows.grad, 2 * by)
    assert not any(piece._is_view() for piece in pieces)


@given(first=st.integers(0, 4), count=st.integers(1, 4), rest=st.integers(0, 3))
def test_a_span_is_a_slice_that_starts_its_storage(first: int, count: int, rest: int) -> None:
    rows = torch.randn(first + count + rest, 2, 3)
    found = span(rows, slice(first, first + count))
    assert torch.equal(found, rows[first : first + count])
    assert found.storage_offset() == 0
    assert not found._is_view()
    assert (found.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()) == (first == 0)
