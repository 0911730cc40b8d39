"""The sampling kernels against the plain twin: the same noise must give the same tokens."""

import math

import pytest
import torch
from torch import Tensor

from open_mythos.kernels import sample as kernels
from open_mythos.kernels.sample import largest, sample
from open_mythos.ops import sample as ops
from open_mythos.ops.sample import sample_plain


# Differences of infinities, in numpy under the interpreter, and overflow at a tiny temperature.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draws(batch: int, vocab: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and noise as `pick` draws it."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, vocab, generator=generator)
    noise = torch.empty(batch, vocab).exponential_(generator=generator)
    return logits.to(DEVICE), noise.to(DEVICE)


def agree(
    logits: Tensor, noise: Tensor, temperature: float, top_k: int, spread: float = math.inf
) -> None:
    got = sample(logits, noise, temperature, top_k, spread)
    min_p = math.exp(-spread)
    want = sample_plain(logits, noise, temperature, top_k, min_p=min_p)
    assert got.dtype == torch.int64
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("vocab", "top_k", "dtype"),
    [
        (160, 128, torch.float32),
        (1000, 0, torch.bfloat16),
        (1000, 1, torch.float16),
        (1000, 2, torch.float32),
        (3000, 0, torch.float32),
        (3000, 50, torch.bfloat16),
        (3000, 50, torch.float32),
        (2100, 128, torch.float16),
    ],
)
def test_the_same_noise_gives_the_same_token(vocab: int, top_k: int, dtype: torch.dtype) -> None:
    logits, noise = draws(3, vocab, seed=vocab + top_k)
    agree(logits.to(dtype), noise, 0.8, top_k)


@pytest.mark.parametrize("temperature", [1e-20, 0.01, 1.0, 1e4])
@pytest.mark.parametrize("top_k", [0, 7])
def test_temperatures(temperature: float, top_k: int) -> None:
    logits, noise = draws(2, 700)
    agree(logits, noise, temperature, top_k)


@pytest.mark.parametrize(
    ("vocab", "top_k"), [(1, 0), (1, 1), (2, 1), (3, 2), (3, 9), (33, 32), (33, 33), (33, 100)]
)
def test_small_vocabularies_and_k_beyond_them(vocab: int, top_k: int) -> None:
    agree(*draws(4, vocab), 1.0, top_k)


@pytest.mark.parametrize(("values", "top_k"), [(1, 1), (5, 10), (3000, 20)])
def test_ties_with_the_kth_stay(values: int, top_k: int) -> None:
    """Few distinct values: so many ties that their groups do not fit one program."""
    _, noise = draws(2, 4500)
    logits = torch.arange(2 * 4500, device=DEVICE).view(2, -1) * 7919 % 104729 % values
    agree(logits.float(), noise, 1.0, top_k)


def test_ties_that_only_just_fit() -> None:
    _, noise = draws(3, 2000)
    logits = torch.zeros(3, 2000, device=DEVICE)
    for row, tied in enumerate((15, 16, 17)):  # a program has room for 16 groups of 32
        logits[row, : 32 * tied : 32] = 1.0
    agree(logits, noise, 1.0, 4)


@pytest.mark.parametrize("top_k", [0, 4])
def test_tokens_ruled_out(top_k: int) -> None:
    logits, noise = draws(4, 3000)
    logits[:, ::2] = -math.inf
    logits[1, 8:] = -math.inf  # fewer are left than k
    logits[2, :-1] = -math.inf
    agree(logits, noise, 1.0, top_k)
    assert int(sample(logits, noise, 1.0, top_k)[2]) == 2999


def test_a_row_without_any_token_stays_within_the_vocabulary() -> None:
    logits, noise = draws(3, 90)
    logits[0], logits[1] = -math.inf, math.nan
    for top_k in (0, 5):
        got = sample(logits, noise, 1.0, top_k)
        assert ((got >= 0) & (got < 90)).all()
        assert torch.equal(got[2:], sample_plain(logits[2:], noise[2:], 1.0, top_k))
    assert ((largest(logits) >= 0) & (largest(logits) < 90)).all()


@pytest.mark.parametrize("min_p", [0.02, 1.0])
def test_min_p_after_top_k(min_p: float) -> None:
    logits, noise = draws(4, 400)
    agree(logits, noise, 1.5, 30, -math.log(min_p))


@pytest.mark.parametrize(("batch", "vocab"), [(1, 1), (3, 1500), (2, 4097)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_largest_is_the_first_of_them(batch: int, vocab: int, dtype: torch.dtype) -> None:
    logits = draws(batch, vocab)[0].to(dtype)
    logits[0] = logits[0].clamp(max=1.0)  # many equal
    assert torch.equal(largest(logits), logits.float().argmax(-1))


def test_rows_cut_from_wider_ones() -> None:
    logits, noise = draws(4, 900)
    wide = torch.full((4, 3, 1000), math.inf, device=DEVICE)
    wide[:, 1, :900] = logits
    for top_k in (0, 9):
        want = sample_plain(logits, noise, 1.0, top_k)
        assert torch.equal(sample(wide[:, 1, :900], noise, 1.0, top_k), want)
        assert torch.equal(sample(logits.T.contiguous().T, noise, 1.0, top_k), want)


def test_groups_grow_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MOST_GROUPS", 16)
    monkeypatch.setattr(kernels, "PLENTY", 1)
    for top_k in (0, 1, 20):
        agree(*draws(2, 1900), 1.0, top_k)


def test_no_rows() -> None:
    empty = torch.empty(0, 40, device=DEVICE)
    assert sample(empty, empty, 1.0, 4).shape == (0,)
    assert sample(empty, empty, 1.0).shape == (0,)
    assert largest(empty).shape == (0,)


def test_ops_knows_the_limits() -> None:
    assert (ops.MOST_TOP_K, ops.MOST_VOCAB) == (kernels.MOST_TOP_K, kernels.MOST_VOCAB)
