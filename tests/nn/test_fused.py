"""Fused storage answers like the separate maps it stands for."""

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.nn.fused import FusedLinear, HasParts, LinearView


@given(widths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_parts_are_separate_linear_maps(widths: list[int]) -> None:
    fused = FusedLinear(3, {f"p{i}": w for i, w in enumerate(widths)}).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    outs = fused(x)
    assert [o.shape[-1] for o in outs] == widths
    start = 0
    for i, (out, width) in enumerate(zip(outs, widths, strict=True)):
        part = fused.part(f"p{i}")
        assert (part.out_features, part.in_features) == (width, 3)
        assert torch.equal(part.weight, fused.weight[start : start + width])
        torch.testing.assert_close(part(x), out)
        start += width


def test_the_rest_is_every_part_from_one_on() -> None:
    fused = FusedLinear(3, {"a": 2, "b": 1, "c": 4}).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    a, b, c = fused(x)
    for first, parts in (("a", (a, b, c)), ("b", (b, c)), ("c", (c,))):
        torch.testing.assert_close(fused.rest(first, x), torch.cat(parts, dim=-1))


def test_writing_through_a_view_changes_the_map() -> None:
    fused = FusedLinear(3, {"a": 2, "b": 2})
    x = torch.randn(1, 3)
    before = fused(x)
    with torch.no_grad():
        fused.part("b").weight.zero_()
    a, b = fused(x)
    assert torch.equal(a, before[0])
    assert torch.equal(b, torch.zeros(1, 2))


def test_gradients_reach_the_fused_weight_through_a_view() -> None:
    fused = FusedLinear(3, {"a": 2, "b": 2})
    fused.part("a")(torch.ones(1, 3)).sum().backward()
    assert fused.weight.grad is not None
    assert fused.weight.grad[:2].eq(1).all()
    assert fused.weight.grad[2:].eq(0).all()


def test_unknown_part_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="c"):
        FusedLinear(3, {"a": 2}).part("c")


def test_a_view_has_no_bias_and_prints_its_parts() -> None:
    assert LinearView(torch.ones(2, 3)).bias is None
    assert "a=2" in repr(FusedLinear(3, {"a": 2}))


def test_a_part_cannot_be_swapped_for_a_module_that_nobody_runs() -> None:
    class Pair(HasParts):
        def __init__(self) -> None:
            super().__init__()
            self.both = FusedLinear(3, {"a": 2, "b": 4})

        @property
        def a(self) -> LinearView:
            return self.both.part("a")

    pair, x = Pair(), torch.randn(2, 3)
    with pytest.raises(AttributeError, match=r"Pair\.a is a view.*in place"):
        pair.a = torch.nn.Linear(3, 2)
    with pytest.raises(AttributeError):
        pair.a.weight = torch.zeros(2, 3)
    with torch.no_grad():
        pair.a.weight.fill_(1.0)
    assert torch.allclose(pair.both(x)[0], x.sum(-1, keepdim=True).expand(2, 2), atol=1e-6)
