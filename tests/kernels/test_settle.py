"""The kernel that lets rows go against its plain twin."""

import pytest
import torch

from open_mythos.kernels import settle as kernels
from open_mythos.ops.settle import settle_plain


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("leaving", [True, False])
@pytest.mark.parametrize(("rows", "width", "dtype"), [
    (7, 24, torch.bfloat16), (1, 130, torch.float32), (33, 64, torch.float16),
])  # fmt: skip
def test_settle(rows: int, width: int, dtype: torch.dtype, leaving: bool) -> None:
    said = torch.randn(rows, 1, width).to(DEVICE, dtype)
    table = torch.randn(rows + 3, width).to(DEVICE, dtype)
    lanes = torch.randperm(rows + 3)[:rows].to(DEVICE)
    gone, depth = torch.randint(0, 3, (rows,)).to(DEVICE), torch.randint(0, 6, (rows,)).to(DEVICE)
    ends, write = torch.randint(1, 8, (rows,)).to(DEVICE), torch.arange(rows).to(DEVICE) * 5
    done = (torch.rand(rows, 1) < 0.5).to(DEVICE) if leaving else None
    want_table = table.clone()
    now = (gone, depth, ends, write)
    want = settle_plain(said, want_table, lanes, now, done, beyond=99, deepest=5)
    assert torch.equal(kernels.settle(said, table, lanes, now, done, 99, 5), want)
    assert torch.equal(table, want_table)
