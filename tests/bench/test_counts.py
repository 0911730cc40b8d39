"""Operators and graphs, counted where the number is known."""

import torch

from open_mythos.bench.counts import compiled_graphs, count_ops, forget_compiled


def test_operators_are_counted_by_name_and_views_are_not() -> None:
    x = torch.randn(4, 4)

    def step() -> torch.Tensor:
        return (x @ x).t().reshape(2, 8).transpose(0, 1) + 1

    counts = count_ops(step)
    assert counts["aten::mm"] == 1
    assert counts["aten::add"] == 1
    assert not any(name in counts for name in ("aten::t", "aten::transpose", "aten::view"))


def test_the_backward_pass_counts_too() -> None:
    x = torch.randn(4, 4, requires_grad=True)
    forward = count_ops(lambda: x @ x)
    both = count_ops(lambda: (x @ x).sum().backward())
    assert both["aten::mm"] == 3 * forward["aten::mm"]


def test_in_place_operators_are_no_views() -> None:
    x = torch.randn(4)
    assert count_ops(lambda: x.add_(1).mul_(2)).total() == 2


def test_graphs_are_counted_once_each() -> None:
    forget_compiled()
    before = compiled_graphs()
    call = torch.compile(lambda x: x * 2 + 1, backend="eager", dynamic=False)
    for _ in range(3):
        call(torch.randn(3))
    assert compiled_graphs() - before == 1
    call(torch.randn(4))
    assert compiled_graphs() - before == 2
    forget_compiled()
