"""Fused storage answers like the separate maps it stands for, wrapped or not."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from open_mythos.nn.fused import (
    CorrectedMap,
    FusedLinear,
    HasParts,
    LinearView,
    Low,
    fused,
    only,
    rest,
)


class Adapted(nn.Module):
    """What LoRA libraries put in a linear map's place."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.delta = nn.Linear(base_layer.in_features, base_layer.out_features).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.delta(x)


@given(widths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_parts_are_separate_linear_maps(widths: list[int]) -> None:
    layer = FusedLinear(3, {f"p{i}": w for i, w in enumerate(widths)}).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    outs = layer(x).split(widths, dim=-1)
    assert isinstance(layer, nn.Linear)
    assert torch.equal(layer.joined(x), layer(x))
    assert (layer.in_features, layer.out_features) == (3, sum(widths))
    start = 0
    for i, (out, width) in enumerate(zip(outs, widths, strict=True)):
        part = layer.part(f"p{i}")
        assert (part.out_features, part.in_features) == (width, 3)
        assert torch.equal(part.weight, layer.weight[start : start + width])
        torch.testing.assert_close(part(x), out)
        start += width


@pytest.mark.parametrize("wrap", [lambda layer: layer, Adapted], ids=["plain", "wrapped"])
def test_some_parts_alone_are_what_the_whole_says_of_them(wrap) -> None:
    layer = wrap(FusedLinear(3, {"a": 2, "b": 1, "c": 4}).double())
    x = torch.randn(2, 3, dtype=torch.float64)
    a, b, c = layer(x).split([2, 1, 4], dim=-1)
    assert isinstance(fused(layer), FusedLinear)
    for first, parts in (("a", (a, b, c)), ("b", (b, c)), ("c", (c,))):
        torch.testing.assert_close(rest(layer, first, x), torch.cat(parts, dim=-1))
        torch.testing.assert_close(only(layer, first, x), parts[0])


@pytest.mark.parametrize("wrap", [lambda layer: layer, Adapted], ids=["plain", "wrapped"])
def test_a_correction_is_in_the_whole_and_in_every_part(wrap) -> None:
    layer = wrap(FusedLinear(3, {"a": 2, "b": 1, "c": 4}).double())
    low = Low(torch.randn(2, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64))
    corrected, x = CorrectedMap(layer, low), torch.randn(2, 3, dtype=torch.float64)
    want = layer(x) + x @ (low.up @ low.down).T
    torch.testing.assert_close(corrected(x), want)
    a, b, c = want.split([2, 1, 4], dim=-1)
    for first, parts in (("a", (a, b, c)), ("b", (b, c)), ("c", (c,))):
        torch.testing.assert_close(rest(corrected, first, x), torch.cat(parts, dim=-1))
        torch.testing.assert_close(only(corrected, first, x), parts[0])


def test_it_starts_with_one_draw_per_weight() -> None:
    torch.manual_seed(3)
    layer = FusedLinear(5, {"a": 2, "b": 3})
    after = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(layer.weight, torch.empty(5, 5).normal_(std=0.02))
    assert torch.equal(after, torch.rand(()))


def test_writing_through_a_view_changes_the_map() -> None:
    layer = FusedLinear(3, {"a": 2, "b": 2})
    x = torch.randn(1, 3)
    before = layer(x)
    with torch.no_grad():
        layer.part("b").weight.zero_()
    after = layer(x)
    assert torch.equal(after[:, :2], before[:, :2])
    assert torch.equal(after[:, 2:], torch.zeros(1, 2))


def test_gradients_reach_the_fused_weight_through_a_view() -> None:
    layer = FusedLinear(3, {"a": 2, "b": 2})
    layer.part("a")(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad[:2].eq(1).all()
    assert layer.weight.grad[2:].eq(0).all()


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
    torch.testing.assert_close(pair.both(x)[:, :2], x.sum(-1, keepdim=True).expand(2, 2))
