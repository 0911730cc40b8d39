"""rotate against complex multiplication, value by value."""

import cmath

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.ops.reference import rotate_reference
from open_mythos.ops.rotate import rotate


def angles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64) * 10


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 4),
    heads=st.integers(1, 3),
    pairs=st.integers(1, 3),
    per_row=st.booleans(),
)
def test_rotate_multiplies_pairs_by_phasors(
    batch: int, length: int, heads: int, pairs: int, per_row: bool
) -> None:
    x = torch.randn(batch, length, heads, 2 * pairs, dtype=torch.float64, requires_grad=True)
    a = angles(batch, length, pairs) if per_row else angles(length, pairs)
    got = rotate(x, a.cos(), a.sin())
    reference = rotate_reference(x, a.cos(), a.sin())
    torch.testing.assert_close(got, reference, rtol=1e-12, atol=1e-12)
    full = a.expand(batch, length, pairs)
    for b in range(batch):
        for s in range(length):
            for h in range(heads):
                for i in range(pairs):
                    z = complex(*x[b, s, h, 2 * i : 2 * i + 2].tolist())
                    turned = z * cmath.exp(1j * full[b, s, i].item())
                    assert got[b, s, h, 2 * i].item() == pytest.approx(turned.real, abs=1e-12)
                    assert got[b, s, h, 2 * i + 1].item() == pytest.approx(turned.imag, abs=1e-12)
    up = torch.randn_like(x)
    (ours,) = torch.autograd.grad((got * up).sum(), x, retain_graph=True)
    (theirs,) = torch.autograd.grad((reference * up).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_16_bit_rounds_once(dtype: torch.dtype) -> None:
    x, a = torch.randn(2, 5, 3, 8).to(dtype), angles(5, 4)
    got = rotate(x, a.cos().float(), a.sin().float())
    want = rotate(x.double(), a.cos(), a.sin())
    assert got.dtype == dtype
    # One rounding of the exact result, not one per product.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), want, rtol=eps, atol=1e-6)


def test_reference_keeps_the_dtype() -> None:
    x, a = torch.randn(1, 3, 1, 4).bfloat16(), angles(3, 2).float()
    assert rotate_reference(x, a.cos(), a.sin()).dtype == torch.bfloat16
