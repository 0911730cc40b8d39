"""Who is picked and how much each counts."""

import math

import pytest
import torch
from hypothesis import assume, given, strategies as st

from open_mythos.ops import routing
from open_mythos.ops.backend import HAS_TRITON
from open_mythos.ops.routing import route, route_plain, routes_backend


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
# torch 2.13, inside its compiler.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_kernels_give_the_plain_routing_and_its_gradient(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(30, 6, device=DEVICE, requires_grad=True)
    bias, slope = torch.randn(6, device=DEVICE), torch.randn(30, 2, device=DEVICE)
    want = route_plain(logits, bias, 2)
    (d_want,) = torch.autograd.grad(want.weights, logits, slope)
    monkeypatch.setattr(routing, "routes_backend", lambda *_: "triton")
    call = route
    if how == "compiled":
        torch._dynamo.reset()
        call = torch.compile(route, backend="aot_eager", fullgraph=True)
    got = call(logits, bias, 2)
    assert torch.equal(got.ids, want.ids)
    assert torch.equal(got.load, want.load)
    for name in ("order", "inverse", "ends"):
        assert torch.equal(getattr(got.plan, name), getattr(want.plan, name))
    torch.testing.assert_close(got.weights, want.weights)
    (d_got,) = torch.autograd.grad(got.weights, logits, slope)
    torch.testing.assert_close(d_got, d_want)


def test_a_cpu_and_float64_take_the_plain_way() -> None:
    logits, bias = torch.zeros(2, 3), torch.zeros(3)
    assert routes_backend(logits, bias) == "plain"
    if torch.cuda.is_available() and HAS_TRITON:
        there, theirs = logits.cuda(), bias.cuda()
        assert routes_backend(there, theirs) == "triton"
        assert routes_backend(there, bias) == "plain"
        assert routes_backend(there.double(), theirs) == "plain"
        assert routes_backend(there.expand(2, 3), theirs.double()) == "plain"
