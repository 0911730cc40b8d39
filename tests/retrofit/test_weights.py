"""Rotated in either order, queries and keys have the same products."""

import torch
from hypothesis import given, strategies as st

from open_mythos.checkpoint.foreign.source import interleaved
from open_mythos.nn.rotary import rotary


def turned_by_halves(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Llama's rotation of (T, d): channel j with channel j + d / 2, by complex numbers."""
    length, d = x.shape
    z = torch.complex(x[:, : d // 2], x[:, d // 2 :])
    rates = theta ** (-torch.arange(d // 2, dtype=torch.float64) * 2 / d)
    z = z * torch.polar(
        torch.ones(1, dtype=torch.float64), torch.outer(torch.arange(length), rates)
    )
    return torch.cat((z.real, z.imag), dim=-1)


@given(heads=st.integers(1, 3), half=st.integers(1, 5), seed=st.integers(0, 99))
def test_products_do_not_depend_on_the_order(heads: int, half: int, seed: int) -> None:
    torch.manual_seed(seed)
    d, width, length, theta = 2 * half, 7, 6, 50.0
    wq, wk = torch.randn(2, heads * d, width, dtype=torch.float64).unbind()
    x = torch.randn(length, width, dtype=torch.float64)
    tables = rotary(torch.arange(length), d, theta)
    ours = [
        tables.turn((x @ interleaved(w, len(w) // d).T).view(1, length, heads, d)).squeeze(0)
        for w in (wq, wk)
    ]
    for h in range(heads):
        q, k = (turned_by_halves((x @ w.T)[:, h * d : (h + 1) * d], theta) for w in (wq, wk))
        torch.testing.assert_close(ours[0][:, h] @ ours[1][:, h].T, q @ k.T, rtol=1e-5, atol=1e-5)


def test_a_bias_is_ordered_as_its_rows_are() -> None:
    bias = torch.randn(12)
    assert torch.equal(
        interleaved(bias, len(bias) // 6), interleaved(bias.unsqueeze(1), len(bias) // 6).squeeze(1)
    )
    assert torch.equal(interleaved(torch.arange(6), 1), torch.tensor([0, 3, 1, 4, 2, 5]))
