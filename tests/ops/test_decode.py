"""Attention over a static cache against one query and one row's own keys at a time."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from open_mythos.ops.decode import attend_lengths_reference, attend_static, attend_static_latent


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], starts: list[int], scale: float
) -> Tensor:
    """Softmax over the keys that one query may see, in Python."""
    batch, queries, heads, _ = q.shape
    groups = heads // k.shape[2]
    out = torch.zeros(batch, queries, heads, v.shape[3], dtype=q.dtype)
    for b in range(batch):
        for i in range(queries):
            position = lengths[b] - queries + i
            keys = range(starts[b], position + 1)
            for h in range(heads):
                scores = [scale * float(q[b, i, h] @ k[b, j, h // groups]) for j in keys]
                total = sum(math.exp(x) for x in scores)
                for j, x in zip(keys, scores, strict=True):
                    out[b, i, h] += math.exp(x) / total * v[b, j, h // groups]
    return out


def spoiled(entries: Tensor, lengths: list[int], starts: list[int]) -> Tensor:
    """NaN and inf outside what the rows show."""
    entries = entries.clone()
    for b, (end, start) in enumerate(zip(lengths, starts, strict=True)):
        entries[b, end:] = torch.nan
        entries[b, :start] = torch.inf
    return entries


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, list[int], list[int]]:
    batch, capacity = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    queries = draw(st.integers(1, capacity))
    key_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    e, f = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    lengths = [draw(st.integers(queries, capacity)) for _ in range(batch)]
    if draw(st.booleans()):
        lengths = lengths[:1] * batch
    starts = [draw(st.integers(0, n)) for n in lengths] if draw(st.booleans()) else [0] * batch
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    q = noise(batch, queries, key_heads * groups, e)
    k, v = noise(batch, capacity, key_heads, e), noise(batch, capacity, key_heads, f)
    return q, k, v, lengths, starts


@given(problems(), st.sampled_from([torch.int32, torch.int64]))
def test_every_path_is_the_definition(
    problem: tuple[Tensor, Tensor, Tensor, list[int], list[int]], dtype: torch.dtype
) -> None:
    q, k, v, lengths, starts = problem
    want = by_definition(q, k, v, lengths, starts, 0.7)
    k, v = spoiled(k, lengths, starts), spoiled(v, lengths, starts)
    ends = torch.tensor(lengths, dtype=dtype)
    begins = torch.tensor(starts, dtype=dtype) if any(starts) else None
    for form in (attend_static, attend_lengths_reference):
        got = form(q, k, v, ends, begins, 0.7)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@given(problems(), st.integers(1, 3))
def test_a_latent_cache_is_one_key_head_whose_value_is_part_of_the_key(
    problem: tuple[Tensor, Tensor, Tensor, list[int], list[int]], rope: int
) -> None:
    q, k, v, lengths, starts = problem
    c_kv, k_rope = v[:, :, 0], k[:, :, 0, :rope]
    r, p = c_kv.shape[-1], k_rope.shape[-1]
    q = torch.randn(*q.shape[:3], r + p, dtype=torch.float64)
    keys = torch.cat((c_kv, k_rope), dim=-1).unsqueeze(2)
    want = by_definition(q, keys, c_kv.unsqueeze(2), lengths, starts, 0.7)
    c_kv, k_rope = spoiled(c_kv, lengths, starts), spoiled(k_rope, lengths, starts)
    ends, begins = torch.tensor(lengths), torch.tensor(starts)
    got = attend_static_latent(q, c_kv, k_rope, ends, begins, 0.7)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("queries", [1, 3])
def test_a_row_that_shows_nothing_gives_zeros_and_no_gradient(queries: int) -> None:
    q, k = torch.randn(2, queries, 2, 4), torch.randn(2, 6, 1, 4)
    q.requires_grad_()
    for form in (attend_static, attend_lengths_reference):
        out = form(q, k, k, torch.tensor([6, 4]), torch.tensor([0, 4]), 0.5)
        assert torch.equal(out[1], torch.zeros(queries, 2, 4))
        (slope,) = torch.autograd.grad(out.sum(), q)
        assert torch.equal(slope[1], torch.zeros_like(slope[1]))
        assert slope[0].abs().sum() > 0


def test_a_traced_call_masks_instead_of_reading_the_lengths() -> None:
    torch.compiler.reset()
    q, k, v = torch.randn(2, 1, 4, 8), torch.randn(2, 9, 2, 8), torch.randn(2, 9, 2, 8)
    traced = torch.compile(attend_static, backend="eager", fullgraph=True)
    for values in ([9, 9], [3, 7], [1, 2]):
        lengths = torch.tensor(values)
        want = attend_lengths_reference(q, k, v, lengths, None, 0.4)
        torch.testing.assert_close(traced(q, k, v, lengths, None, 0.4), want)


def test_tokens_one_by_one_equal_all_at_once() -> None:
    q, k, v = torch.randn(2, 5, 4, 8), torch.randn(2, 12, 2, 8), torch.randn(2, 12, 2, 8)
    lengths = torch.tensor([12, 9])
    together = attend_static(q, k, v, lengths, None, 0.4)
    for i in range(5):
        alone = attend_static(q[:, i : i + 1], k, v, lengths - 4 + i, None, 0.4)
        torch.testing.assert_close(together[:, i : i + 1], alone)
