"""Products and loop bounds are those of a GPU, interpreted or not."""

import pytest
import torch
import triton
import triton.language as tl

from open_mythos.kernels.interpreter import INTERPRETED, bound, multiply


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDE = 16


@triton.jit
def _powers(a, out, count, SIDE: tl.constexpr):
    """`out` (SIDE, SIDE) = `count` times a @ a, a sum formed in float32."""
    at = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    square, total = tl.load(a + at), tl.zeros((SIDE, SIDE), tl.float32)
    for _ in tl.range(0, bound(count), 2):
        total = multiply(square, square, total)
    tl.store(out + at, total)


def test_the_switch_says_where_kernels_run():
    assert INTERPRETED.value == (DEVICE == "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_products_of_any_dtype_are_added_as_often_as_the_bound_says(dtype, count):
    a = torch.randn(SIDE, SIDE).to(dtype)
    out = torch.empty(SIDE, SIDE, device=DEVICE)
    _powers[(1,)](a.to(DEVICE), out, count, SIDE=SIDE)
    want = (count + 1) // 2 * (a.double() @ a.double())
    torch.testing.assert_close(out.cpu().double(), want, rtol=1e-5, atol=1e-5)
