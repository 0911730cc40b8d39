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


def test_a_norm_of_a_norm_is_both_in_turn_and_seen_by_who_hooks_either() -> None:
    first, second = RMSNorm(8).double(), RMSNorm(8, eps=0.1).double()
    h, signal, e = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 8), (8,), (2, 8)))
    torch.nn.init.normal_(first.weight)
    torch.nn.init.normal_(second.weight)
    want = first(h + signal + e)
    for hooked in (None, first, second):
        seen: list[torch.Tensor] = []
        if hooked is not None:
            hooked.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1]))
        x, read = first.of_sum_then(second, h, signal, e)
        torch.testing.assert_close(x, want)
        torch.testing.assert_close(read, second(want))
        assert bool(seen) is (hooked is not None)
    alone = first.of_sum_then(second, h, None, None)
    torch.testing.assert_close(alone, (first(h), second(first(h))))
