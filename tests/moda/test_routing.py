"""Who is picked, by brute force; what each counts; what uneven use costs."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.moda.config import ScoreFunction
from open_mythos.moda.routing import balance_loss, choose


SCORES = st.sampled_from(["softmax", "sigmoid"])


@given(
    score=SCORES,
    groups=st.sampled_from([1, 2, 3, 4]),
    size=st.integers(1, 3),
    biased=st.booleans(),
    data=st.data(),
)
def test_the_best_experts_of_the_best_groups(
    score: ScoreFunction,
    groups: int,
    size: int,
    biased: bool,
    data: st.DataObject,
    brute_force: Callable[..., set],
) -> None:
    top = data.draw(st.integers(1, groups))
    k = data.draw(st.integers(1, top * size))
    scale = data.draw(st.sampled_from([0.5, 1.0, 16.0]))
    experts = groups * size
    logits = torch.randn(5, experts, dtype=torch.float64)
    bias = torch.randn(experts, dtype=torch.float64) if biased else None
    got = choose(logits, k, score=score, bias=bias, groups=groups, top_groups=top, scale=scale)
    for n, row in enumerate(logits.tolist()):
        powers = [math.exp(x) for x in row]
        scores = (
            [p / sum(powers) for p in powers]
            if score == "softmax"
            else [1 / (1 + math.exp(-x)) for x in row]
        )
        who = got.ids[n].tolist()
        listed = None if bias is None else bias.tolist()
        assert set(who) == brute_force(scores, listed, k, groups, top)
        total = sum(scores[e] for e in who) if score == "sigmoid" else 1.0
        for e, weight in zip(who, got.weights[n].tolist(), strict=True):
            assert weight == pytest.approx(scores[e] / total * scale, rel=1e-9)
        shares = [s / sum(scores) for s in scores]
        assert got.shares[n].tolist() == pytest.approx(shares, rel=1e-9)


def test_a_group_with_a_bias_is_as_good_as_its_two_best() -> None:
    """Scores near 0.5 each: one strong expert loses against two good ones once there is a bias."""
    logits = torch.tensor([[5.0, -9.0, -9.0, 2.0, 2.0, -9.0]])
    how = {"score": "sigmoid", "groups": 2, "top_groups": 1}
    alone = choose(logits, 2, **how)  # type: ignore[arg-type]
    assert 0 in alone.ids[0].tolist()
    pair = choose(logits, 2, bias=torch.zeros(6), **how)  # type: ignore[arg-type]
    assert sorted(pair.ids[0].tolist()) == [3, 4]


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_bias_picks_and_has_no_gradient(score: ScoreFunction) -> None:
    logits = torch.randn(6, 5, requires_grad=True)
    bias = torch.tensor([0.0, 100.0, 0.0, 0.0, 0.0], requires_grad=True)
    got = choose(logits, 2, score=score, bias=bias)
    assert (got.ids == 1).any(-1).all()
    assert (got.weights <= 1).all()
    (got.weights * torch.randn(6, 2)).sum().backward()
    assert bias.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hopeless_scores_are_shared_out_and_not_divided_by_zero(dtype: torch.dtype) -> None:
    got = choose(torch.full((1, 4), -300.0, dtype=dtype), 2, score="sigmoid")
    assert got.weights.dtype == dtype
    assert got.weights.tolist() == [[0.5, 0.5]]
    assert got.shares.sum().item() == pytest.approx(1.0)


@given(n=st.integers(1, 9), experts=st.integers(1, 6), score=SCORES, data=st.data())
def test_balance_loss_by_loops(
    n: int, experts: int, score: ScoreFunction, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, experts))
    got = choose(torch.randn(n, experts, dtype=torch.float64), k, score=score)
    load = torch.bincount(got.ids.flatten(), minlength=experts)
    want = 0.0
    for e in range(experts):
        visits = sum(row.count(e) for row in got.ids.tolist())
        mean = sum(row[e] for row in got.shares.tolist()) / n
        want += visits * experts / (k * n) * mean
    assert balance_loss(got.shares, load).item() == pytest.approx(want, rel=1e-9)


def test_balance_loss_is_one_when_even_and_its_gradient_evens() -> None:
    shares = torch.full((8, 4), 0.25, requires_grad=True)
    assert balance_loss(shares, torch.tensor([4, 4, 4, 4])).item() == pytest.approx(1.0)
    logits = torch.randn(8, 4, requires_grad=True)
    loss = balance_loss(logits.softmax(-1), torch.tensor([10, 2, 2, 2]))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()  # going down the slope, the busy one loses
