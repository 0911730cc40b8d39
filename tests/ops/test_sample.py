"""Drawing with given noise against the definition, and the choice of implementation."""

import math

import pytest
import torch
from torch import Tensor

from open_mythos.ops import rows
from open_mythos.ops.sample import (
    MOST_TOP_K,
    MOST_VOCAB,
    largest,
    sample,
    sample_backend,
    sample_plain,
)


def race(row: list[float], noise: list[float], temperature: float, alive: set[int]) -> int:
    """The token whose clock, exponential with the rate exp(logit / T), rings first."""
    times = {i: math.log(noise[i]) - row[i] / temperature for i in alive}
    return min(times, key=lambda i: times[i])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("top_k", [0, 1, 4, 30])
def test_the_first_clock_of_the_top_k_wins(seed: int, temperature: float, top_k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, 12, generator=generator).double()
    noise = torch.empty(20, 12).exponential_(generator=generator)
    got = sample(logits, noise, temperature, top_k)
    want = []
    for row, clocks in zip(logits.tolist(), noise.tolist(), strict=True):
        ranked = sorted(range(12), key=lambda i, row=row: -row[i])
        want.append(race(row, clocks, temperature, set(ranked[: top_k or 12])))
    assert got.tolist() == want


def test_ties_with_the_kth_stay() -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0, 0.0, 1.0]])
    for token in (0, 1, 2, 4):
        noise = torch.full((1, 5), 5.0)
        noise[0, token] = noise[0, 3] = 1e-6
        assert sample(logits, noise, 1.0, 2).tolist() == [token]


def test_nucleus_and_least_share_rule_tokens_out() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    noise = torch.tensor([[8.0, 4.0, 1e-3, 1e-5]])
    assert sample(logits, noise, 1.0).tolist() == [3]
    assert sample(logits, noise, 1.0, top_p=0.9).tolist() == [2]
    assert sample(logits, noise, 1.0, top_p=0.7).tolist() == [1]
    assert sample(logits, noise, 1.0, min_p=0.2).tolist() == [2]
    assert sample(logits, noise, 1.0, top_k=3, min_p=0.5).tolist() == [1]


def test_the_largest_is_the_first_of_them() -> None:
    assert largest(torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]])).tolist() == [1, 0]


class OnCuda:
    """What `sample_backend` asks of a tensor, without a device."""

    is_cuda = True
    requires_grad = False

    def __init__(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, _: object) -> "OnCuda":
        return OnCuda(self.shape[0], 1, dtype=self.dtype)


def test_kernels_serve_temperature_and_top_k_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HAS_TRITON", True)

    def backend(
        x: "OnCuda | Tensor", top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
    ) -> str:
        return sample_backend(x, OnCuda(*x.shape), top_k, top_p, min_p)  # type: ignore[arg-type]

    x = OnCuda(2, 32000)
    assert backend(x) == backend(x, 50) == backend(x, MOST_TOP_K) == "triton"
    assert backend(x, 32000) == "triton"  # filters nothing
    assert backend(x, 50, min_p=0.1) == "triton"
    assert backend(x, min_p=0.1) == "plain"
    assert backend(x, MOST_TOP_K + 1) == "plain"
    assert backend(x, 50, top_p=0.9) == "plain"
    assert backend(OnCuda(2, MOST_VOCAB)) == "triton"
    assert backend(OnCuda(2, MOST_VOCAB + 1)) == "plain"
    assert backend(OnCuda(2, 32000, dtype=torch.float64)) == "plain"
    assert backend(torch.randn(2, 32000)) == "plain"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_kernels_draw_what_the_plain_definition_does() -> None:
    logits = 3 * torch.randn(6, 32000, device="cuda").bfloat16()
    noise = torch.empty(6, 32000, device="cuda").exponential_()
    for top_k in (0, 50):
        assert sample_backend(logits, noise, top_k, 1.0, 0.0) == "triton"
        want = sample_plain(logits, noise, 0.7, top_k)
        assert torch.equal(sample(logits, noise, 0.7, top_k), want)
    assert torch.equal(largest(logits), logits.argmax(-1))
