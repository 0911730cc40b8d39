"""Entries shown in deeper loops against copies made one after the other."""

import pytest
import torch

from open_mythos.kernels.deepen import SHARE, deepen


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SLOTS, BLOCKS, SIZE = 5, 6, 4


@pytest.mark.parametrize(
    ("entry", "dtype"),
    [
        ((2, 3), torch.float32),
        ((7,), torch.bfloat16),
        ((2, SHARE - 5), torch.float16),
        ((1,), torch.float64),
    ],
)
def test_only_what_has_left_is_copied(entry: tuple[int, ...], dtype: torch.dtype) -> None:
    store = torch.randn(SLOTS * BLOCKS, SIZE, *entry).to(DEVICE, dtype)
    rows = 9
    place = torch.randperm(BLOCKS * SIZE)[:rows]
    done, end = torch.randint(0, SLOTS + 1, (rows,)), torch.randint(1, SLOTS + 3, (rows,))
    done[0], end[0] = 1, SLOTS  # all loops but the first
    done[1], end[1] = 0, SLOTS  # on its way
    place[3] = place[2]  # of nobody, who has no loops to go: both rows may name one place
    done[2:4], end[2:4] = torch.tensor([1, 0]), 1
    want = store.clone().unflatten(0, (SLOTS, BLOCKS)).flatten(1, 2)
    for at, loops, most in zip(place.tolist(), done.tolist(), end.tolist(), strict=True):
        for loop in range(loops, min(most, SLOTS)) if loops else ():
            want[loop, at] = want[loops - 1, at]
    deepen(store, SLOTS, *(t.to(DEVICE) for t in (place, done, end)))
    assert torch.equal(store.view_as(want), want)


def test_no_rows() -> None:
    store, none = torch.randn(SLOTS * 2, 2, 3).to(DEVICE), torch.zeros(0, dtype=torch.int64)
    before = store.clone()
    deepen(store, SLOTS, *[none.to(DEVICE)] * 3)
    assert torch.equal(store, before)
