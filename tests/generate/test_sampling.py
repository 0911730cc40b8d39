"""Filters against slow definitions; draws against the probabilities that they should follow."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.generate.sampling import Sampling, pick
from open_mythos.ops.sample import keep_min_p, keep_top_k, keep_top_p


def rows(seed: int, vocab: int) -> Tensor:
    return torch.randn(3, vocab, generator=torch.Generator().manual_seed(seed)).double() * 2


def kept(filtered: Tensor, logits: Tensor) -> list[set[int]]:
    """Which tokens survived, per row; survivors keep their logits, the rest is -inf."""
    alive = filtered > -math.inf
    assert torch.equal(filtered[alive], logits[alive])
    return [set(row.nonzero().flatten().tolist()) for row in alive]


seeds, vocabs = st.integers(0, 10**6), st.integers(1, 12)


@given(seed=seeds, vocab=vocabs, k=st.integers(1, 40))
def test_top_k_keeps_the_k_largest(seed: int, vocab: int, k: int) -> None:
    logits = rows(seed, vocab)
    want = [set(sorted(range(vocab), key=lambda i: -float(r[i]))[:k]) for r in logits]
    assert kept(keep_top_k(logits, k), logits) == want


@given(seed=seeds, vocab=vocabs, p=st.floats(1e-6, 0.9999))
def test_top_p_keeps_the_fewest_that_reach_p(seed: int, vocab: int, p: float) -> None:
    logits = rows(seed, vocab)
    want = []
    for row in logits:
        probability = [math.exp(float(x)) for x in row]
        total, chosen, reached = sum(probability), set(), 0.0
        for i in sorted(range(vocab), key=lambda i: -probability[i]):
            chosen.add(i)
            reached += probability[i] / total
            if reached >= p:
                break
        want.append(chosen)
    assert kept(keep_top_p(logits, p), logits) == want


@given(seed=seeds, vocab=vocabs, p=st.floats(1e-6, 1.0))
def test_min_p_keeps_what_is_likely_next_to_the_best(seed: int, vocab: int, p: float) -> None:
    logits = rows(seed, vocab)
    want = []
    for row in logits:
        probability = [math.exp(float(x)) for x in row]
        best = max(probability)
        want.append({i for i in range(vocab) if probability[i] >= p * best * (1 - 1e-12)})
    assert kept(keep_min_p(logits, p), logits) == want


@given(
    seed=seeds,
    vocab=vocabs,
    temperature=st.floats(0.1, 5.0),
    top_k=st.integers(0, 20),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
)
def test_a_draw_survives_every_filter_and_the_best_always_may_be_drawn(
    seed: int, vocab: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = rows(seed, vocab).float()
    sampling = Sampling(temperature, top_k, top_p, min_p)
    token = pick(logits, sampling, torch.Generator().manual_seed(seed))
    assert (token.shape, token.dtype) == ((3,), torch.int64)
    for row, chosen in zip(logits / temperature, token.tolist(), strict=True):
        larger = int((row > row[chosen]).sum())
        assert top_k == 0 or larger < top_k
        ahead = row.softmax(-1)[row > row[chosen]].sum()
        assert float(ahead) < top_p + 1e-5 or top_k
        assert float(row.max() - row[chosen]) <= (-math.log(min_p) if min_p else math.inf) + 1e-5


@pytest.mark.parametrize(
    ("sampling", "keep"),
    [
        (Sampling(1.0), 6),
        (Sampling(0.5), 6),
        (Sampling(2.0, top_k=100), 6),
        (Sampling(1.0, top_k=3), 3),
        (Sampling(1.0, top_p=0.8), 3),
        (Sampling(1.0, min_p=0.2), 3),
    ],
    ids=str,
)
def test_draws_follow_the_softmax_of_what_is_kept(sampling: Sampling, keep: int) -> None:
    """Pearson's chi-square of 20,000 draws with a fixed seed."""
    n = 20_000
    logits = torch.tensor([0.40, 0.24, 0.18, 0.07, 0.06, 0.05]).log()
    drawn = pick(logits.expand(n, -1), sampling, torch.Generator().manual_seed(1))
    counts = drawn.bincount(minlength=6)
    weight = (logits.double() / sampling.temperature).exp()
    weight[keep:] = 0.0
    expected = n * weight / weight.sum()
    assert int(counts[keep:].sum()) == 0
    statistic = ((counts - expected).square() / expected)[:keep].sum()
    limit = {3: 13.82, 6: 20.52}[keep]  # the 99.9 % quantiles for 2 and 5 degrees of freedom
    assert float(statistic) < limit


def apart(rows: int, vocab: int) -> Tensor:
    """Logits in any order, no two of a row nearer than one."""
    return torch.rand(rows, vocab).argsort(-1).float()


def test_temperature_zero_and_top_k_one_are_greedy() -> None:
    logits = apart(50, 9)
    best = logits.argmax(-1)
    assert torch.equal(pick(logits, Sampling(0.0, top_k=3, top_p=0.1)), best)
    assert torch.equal(pick(logits, Sampling(1.0, top_k=1)), best)
    assert torch.equal(pick(logits, Sampling(1.0, top_p=1e-9)), best)
    assert torch.equal(pick(logits, Sampling(1.0, min_p=1.0)), best)


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-45, 1e-300])
def test_a_temperature_close_to_zero_is_greedy_too(temperature: float) -> None:
    logits = apart(50, 9)
    assert torch.equal(pick(logits, Sampling(temperature)), logits.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_draws_work_in_every_float_dtype(dtype: torch.dtype) -> None:
    token = pick(torch.randn(4, 9).to(dtype), Sampling(0.8, 5, 0.9, 0.01))
    assert int(token.min()) >= 0
    assert int(token.max()) < 9


def test_a_seeded_generator_fixes_the_draw_and_the_logits_are_left_alone() -> None:
    logits = torch.randn(20, 9)
    before = logits.clone()
    sampling = Sampling(1.0, 5, 0.9, 0.01)

    def draw(seed: int) -> Tensor:
        return pick(logits, sampling, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"temperature": math.nan}, ("temperature", "nan", ">= 0", "greedy")),
        ({"temperature": -0.1}, ("temperature", "-0.1", ">= 0", "greedy")),
        ({"temperature": math.inf}, ("temperature", "inf", "finite")),
        ({"temperature": "hot"}, ("temperature", "hot")),
        ({"temperature": None}, ("temperature", "None")),
        ({"top_k": -1}, ("top_k", "-1", ">= 0", "no filter")),
        ({"top_k": 2.0}, ("top_k", "2.0", "int")),
        ({"top_k": None}, ("top_k", "None", "int")),
        ({"top_p": 0.0}, ("top_p", "0.0", "(0, 1]")),
        ({"top_p": 1.5}, ("top_p", "1.5", "(0, 1]")),
        ({"top_p": math.nan}, ("top_p", "nan", "(0, 1]")),
        ({"min_p": -0.1}, ("min_p", "-0.1", "[0, 1]")),
        ({"min_p": math.nan}, ("min_p", "nan", "[0, 1]")),
    ],
    ids=str,
)
def test_sampling_that_means_nothing_is_refused(
    values: dict[str, Any], shown: tuple[str, ...]
) -> None:
    make: Callable[[], Sampling] = lambda: Sampling(**values)  # noqa: E731
    with pytest.raises(InputError) as caught:
        make()
    assert all(word in str(caught.value) for word in shown), str(caught.value)
