from itertools import accumulate

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.errors import ShapeError
from open_mythos.parallel.division import Division, joined


@given(
    shares=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    parts=st.integers(1, 4),
    dim=st.integers(0, 2),
)
def test_the_parts_are_the_whole_again(shares: list[int], parts: int, dim: int) -> None:
    sections = tuple(share * parts for share in shares)
    shape = [2, 3, 2]
    shape[dim] = sum(sections)
    whole = torch.randn(shape)
    dealt = [Division("tensor", dim, sections, parts, index) for index in range(parts)]
    own = [division.local(whole) for division in dealt]
    assert torch.equal(joined(own, dealt[-1]), whole)
    for division, part in zip(dealt, own, strict=True):
        assert division.shape(part.shape) == whole.shape
        assert part.shape[dim] == sum(shares)
        assert part.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()


def test_a_part_holds_its_share_of_each_section() -> None:
    """Queries, keys and values of two heads each, of which the second rank has the second."""
    heads = {"q": 3, "k": 2, "v": 2}
    rows = {name: torch.randn(2, width, 5) for name, width in heads.items()}
    stacked = torch.cat([part.flatten(0, 1) for part in rows.values()])
    division = Division("tensor", 0, tuple(2 * width for width in heads.values()), 2, 1)
    own = division.local(stacked)
    assert torch.equal(own, torch.cat([part[1] for part in rows.values()]))
    starts = [0, *accumulate(division.sections)][:-1]
    assert [whole - start for (whole, _, _), start in zip(division.spans(), starts, strict=True)]


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(4, 3\) cannot be divided into 2"):
        Division("tensor", 0, (4, 3), 2, 0)
    with pytest.raises(ShapeError, match=r"axis 1 of \(4, 6\) is not made of sections \(4,\)"):
        Division("expert", 1, (4,), 2, 0).local(torch.zeros(4, 6))
