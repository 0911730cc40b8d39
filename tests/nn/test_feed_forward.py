"""SwiGLU against its formula, and the names of its parts."""

import torch
from hypothesis import given, strategies as st

from open_mythos.nn.feed_forward import Expert


@given(dim=st.integers(1, 6), hidden=st.integers(1, 6))
def test_formula(dim: int, hidden: int) -> None:
    expert = Expert(dim, hidden).double()
    for p in expert.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, 3, dim, dtype=torch.float64)
    gate, up = x @ expert.gate.weight.T, x @ expert.up.weight.T
    want = (gate / (1 + (-gate).exp()) * up) @ expert.down.weight.T
    torch.testing.assert_close(expert(x), want, rtol=1e-10, atol=1e-12)


def test_part_names_and_shapes_of_the_public_design() -> None:
    expert = Expert(4, 7)
    assert expert.gate.weight.shape == expert.up.weight.shape == (7, 4)
    assert expert.down.weight.shape == (4, 7)
    assert sum(p.numel() for p in expert.parameters()) == 3 * 4 * 7
