"""Who is picked and how much each counts."""

import math

import pytest
import torch
from hypothesis import assume, given, strategies as st

from open_mythos.nn.moe.router import route


@st.composite
def draws(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, int]:
    experts = draw(st.integers(1, 8))
    k, n = draw(st.integers(1, experts)), draw(st.integers(0, 6))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 30.0]))
    logits = torch.randn(n, experts, generator=g, dtype=torch.float64) * scale
    bias = torch.randn(experts, generator=g) * draw(st.sampled_from([0.0, 0.5, 50.0]))
    return logits, bias, k


@given(draws())
def test_definition(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    logits, bias, k = case
    routing = route(logits, bias, k)
    load = [0] * logits.shape[1]
    for n in range(len(logits)):
        ranked = sorted(range(logits.shape[1]), key=lambda e: -(logits[n, e] + bias[e]).item())
        picked = set(routing.ids[n].tolist())
        assert picked == set(ranked[:k])
        top = max(logits[n, e].item() for e in picked)
        exps = {e: math.exp(logits[n, e].item() - top) for e in picked}
        for e, weight in zip(routing.ids[n].tolist(), routing.weights[n].tolist(), strict=True):
            load[e] += 1
            total = sum(exps.values())
            assert weight == pytest.approx(exps[e] / total, rel=1e-9, abs=1e-12)
    assert routing.load.tolist() == load
    assert routing.load.dtype == torch.int64


@given(draws())
def test_the_bias_picks_and_never_weighs(case: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    logits, bias, k = case
    assume(len(logits) > 0)
    biased, plain = route(logits, bias, k), route(logits, torch.zeros_like(bias), k)
    for n in range(len(logits)):
        mine = dict(zip(biased.ids[n].tolist(), biased.weights[n].tolist(), strict=True))
        theirs = dict(zip(plain.ids[n].tolist(), plain.weights[n].tolist(), strict=True))
        both = sorted(set(mine) & set(theirs))
        for a in both:
            for b in both:  # ratios are those of the unbiased scores
                assert mine[a] * theirs[b] == pytest.approx(mine[b] * theirs[a], rel=1e-9, abs=1e-9)


def test_a_large_bias_does_move_the_choice() -> None:
    logits = torch.randn(5, 4)
    bias = torch.tensor([0.0, 0.0, 1000.0, 0.0])
    assert (route(logits, bias, 1).ids == 2).all()
    assert route(logits, bias, 1).load.tolist() == [0, 0, 5, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_sum_to_one_in_the_logits_dtype(dtype: torch.dtype) -> None:
    routing = route((torch.randn(50, 6) * 3).to(dtype), torch.randn(6), 3)
    assert routing.weights.dtype == dtype
    total = routing.weights.double().sum(-1)
    torch.testing.assert_close(
        total, torch.ones(50, dtype=torch.float64), rtol=0, atol=3 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [100.0, 400.0])
def test_weights_stay_numbers_when_the_bias_picks_the_hopeless(
    dtype: torch.dtype, spread: float
) -> None:
    """Scores that underflow to zero in softmax must still be renormalised, not divided 0 by 0."""
    logits = torch.tensor([[spread, 0.0, -1.0]], dtype=dtype)
    routing = route(logits, torch.tensor([-1e6, 0.0, 0.0]), 2)
    assert sorted(routing.ids[0].tolist()) == [1, 2]
    assert routing.weights.isfinite().all()
    assert routing.weights.double().sum().item() == pytest.approx(1.0, abs=0.01)


def test_the_gradient_reaches_the_logits_and_not_the_bias() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    bias = torch.randn(5, requires_grad=True)
    routing = route(logits, bias, 2)
    (routing.weights * torch.randn(4, 2)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert bias.grad is None
