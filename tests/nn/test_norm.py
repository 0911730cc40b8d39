"""RMSNorm against its formula."""

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.nn.norm import RMSNorm


@given(width=st.integers(1, 9), scale=st.sampled_from([1e-8, 1e-3, 1.0, 1e6]))
def test_formula(width: int, scale: float) -> None:
    norm = RMSNorm(width, eps=1e-5).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 2, width, dtype=torch.float64) * scale
    want = torch.empty_like(x)
    for i in range(3):
        for j in range(2):
            mean_square = sum(v * v for v in x[i, j].tolist()) / width
            want[i, j] = x[i, j] / (mean_square + 1e-5) ** 0.5 * norm.weight.detach()
    torch.testing.assert_close(norm(x), want, rtol=1e-10, atol=1e-10)


def test_zero_is_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    out = RMSNorm(4)(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(1, 4))
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_output_has_the_input_dtype_whatever_the_weight_has(dtype: torch.dtype) -> None:
    x = torch.randn(2, 8).to(dtype) * 300  # 300 squared overflows float16
    out = RMSNorm(8)(x)
    assert out.dtype == dtype
    assert out.isfinite().all()
    torch.testing.assert_close(
        out.double().square().mean(-1), torch.ones(2, dtype=torch.float64), rtol=0.02, atol=0
    )
