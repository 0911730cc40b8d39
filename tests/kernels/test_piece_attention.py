"""Pieces of prompts over pages against their plain twin in float64."""

import pytest
import torch
from torch import Tensor

from open_mythos.kernels.piece_attention import POSITIONS, attend_pieces
from open_mythos.ops.paged import POSITIONS as CUT, Blocks, attend_blocks_plain, cuts_of


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def noise(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(DEVICE, dtype)


def pieces(seed: int) -> Blocks:
    """A prompt of 20 positions, three scattered ones of another, the 17th of a third."""
    g = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 10, (3, 7), generator=g)
    lines = torch.tensor([2] * 20 + [0] * 3 + [1])
    ends = torch.tensor([*range(1, 21), 5, 6, 28, 17])
    shift = torch.tensor([12] * 20 + [0] * 3 + [5])
    cuts = torch.tensor(cuts_of([(0, 20), (20, 23), (23, 24)]))
    return Blocks(*(t.to(DEVICE) for t in (table, lines, shift, ends, cuts)))


def test_kernel_and_caller_cut_alike() -> None:
    assert POSITIONS == CUT
    assert cuts_of([(0, 20), (20, 23), (23, 24)]) == [[0, 16, 20, 23], [16, 4, 3, 1]]


@pytest.mark.parametrize(
    ("heads", "key_heads", "width", "other"),
    [(4, 2, 16, 16), (3, 3, 16, 8), (11, 1, 24, 16), (6, 2, 8, 8)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_equal_the_twin(
    heads: int, key_heads: int, width: int, other: int, dtype: torch.dtype
) -> None:
    blocks = pieces(heads)
    k = noise(1, 24, 4, key_heads, width, dtype=dtype)
    v = noise(2, 24, 4, key_heads, other, dtype=dtype)
    q = noise(3, 24, 1, heads, width, dtype=dtype)
    assert blocks.cuts is not None
    lookup = (blocks.table, blocks.lines, blocks.shift)
    got = attend_pieces(q, k, v, blocks.ends, blocks.cuts, lookup, 0.3)
    want = attend_blocks_plain(q.double(), k.double(), v.double(), blocks, 0.3)
    assert got.dtype == dtype
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, theirs in zip(got.double(), want, strict=True):
        assert torch.linalg.norm(ours - theirs) <= bound * torch.linalg.norm(theirs)


def test_what_stands_behind_a_position_is_not_read_as_a_number() -> None:
    """Others' blocks, and places that nobody wrote, may hold anything."""
    table, lines = torch.tensor([[0, 1]]).to(DEVICE), torch.zeros(3, dtype=torch.int64).to(DEVICE)
    ends, cuts = torch.tensor([1, 2, 5]).to(DEVICE), torch.tensor([[0], [3]]).to(DEVICE)
    blocks = Blocks(table, lines, lines[:1], ends, cuts)
    k = noise(4, 3, 4, 1, 16)
    k[1, 1:], k[2] = torch.nan, torch.nan
    q = noise(5, 3, 1, 2, 16)
    got = attend_pieces(q, k, k, ends, cuts, (table, lines, lines[:1]), 0.3)
    assert got.isfinite().all()
    clean = k.nan_to_num()
    want = attend_blocks_plain(q.double(), clean.double(), clean.double(), blocks, 0.3)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
