"""Bias steps and the measure of evenness."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.nn.moe.balance import (
    dead_experts,
    load_entropy,
    load_peak,
    recomputing,
    step_bias,
)


@given(
    load=st.lists(st.integers(0, 1000), min_size=1, max_size=9),
    step=st.floats(1e-5, 1.0),
)
def test_each_expert_moves_one_step_towards_the_mean(load: list[int], step: float) -> None:
    bias = torch.randn(len(load), dtype=torch.float64)
    moved = step_bias(bias, torch.tensor(load), step)
    mean = sum(load) / len(load)
    for i, count in enumerate(load):
        sign = (mean > count) - (mean < count)
        assert moved[i].item() == pytest.approx(bias[i].item() + sign * step, abs=1e-12)


@given(load=st.lists(st.integers(0, 1000), min_size=2, max_size=9).filter(any))
def test_entropy_is_a_share_of_the_maximum(load: list[int]) -> None:
    total = sum(load)
    want = -sum(c / total * math.log(c / total) for c in load if c) / math.log(len(load))
    assert load_entropy(torch.tensor(load)).item() == pytest.approx(want, abs=1e-9)


def test_entropy_of_extremes_and_of_many_loops() -> None:
    loads = torch.tensor([[4, 4, 4, 4], [16, 0, 0, 0], [0, 0, 0, 0]])
    even, one, none = load_entropy(loads).tolist()
    assert even == pytest.approx(1.0)
    assert one == pytest.approx(0.0, abs=1e-9)
    assert none == 0.0


@given(load=st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_the_peak_and_the_dead_are_those_of_each_loop(load: list[int]) -> None:
    loads = torch.tensor([load, [1] * len(load), [0] * len(load)])
    mean = sum(load) / len(load)
    assert load_peak(loads).tolist() == pytest.approx([max(load) / (mean or 1.0), 1.0, 0.0])
    assert dead_experts(loads).tolist() == [load.count(0), 0, len(load)]


def test_recomputing_is_true_inside_backward_only() -> None:
    seen = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            seen.append(recomputing())
            return x.clone()

        @staticmethod
        def backward(ctx: object, up: torch.Tensor) -> torch.Tensor:
            seen.append(recomputing())
            return up

    Probe.apply(torch.ones(1, requires_grad=True)).sum().backward()
    assert seen == [False, True]
    assert not recomputing()
