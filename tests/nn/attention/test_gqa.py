"""Grouped-query attention against a definition with separate heads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.attention.gqa import GQAttention
from open_mythos.nn.rotary import apply_rope, precompute_rope_freqs, rotary


def by_definition(attn: GQAttention, x: torch.Tensor, causal: bool) -> torch.Tensor:
    cfg, length = attn.cfg, x.shape[1]
    d = cfg.head_dim
    table = precompute_rope_freqs(d, length, cfg.rope_theta)
    heads = []
    every = attn.wq.out_features + 2 * attn.wk.out_features
    bias = torch.zeros(every, dtype=x.dtype) if attn.bias is None else attn.bias
    bq, bk, bv = bias.split([attn.wq.out_features, *[attn.wk.out_features] * 2])
    for h in range(cfg.n_heads):
        g = h // (cfg.n_heads // cfg.n_kv_heads)
        q = x @ attn.wq.weight[h * d : (h + 1) * d].T
        k = x @ attn.wk.weight[g * d : (g + 1) * d].T
        v = x @ attn.wv.weight[g * d : (g + 1) * d].T
        q, k = q + bq[h * d : (h + 1) * d], k + bk[g * d : (g + 1) * d]
        v = v + bv[g * d : (g + 1) * d]
        if attn.q_norm is not None and attn.k_norm is not None:
            q, k = (
                t / (t.square().mean(-1, keepdim=True) + cfg.norm_eps).sqrt() * norm.weight
                for t, norm in ((q, attn.q_norm), (k, attn.k_norm))
            )
        q, k = (apply_rope(t.unsqueeze(2), table).squeeze(2) for t in (q, k))
        scores = q @ k.transpose(1, 2) / d**0.5
        if causal:
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, dim=-1) @ attn.wo.weight.T


PARTS: list[dict[str, Any]] = [
    {},
    {"attention_bias": True},
    {"qk_norm": True, "norm_eps": 0.1},
    {"head_width": 6, "qk_norm": True, "attention_bias": True},
]


@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    length=st.integers(1, 6),
    causal=st.booleans(),
    parts=st.sampled_from(PARTS),
)
def test_equals_the_definition(
    tiny_config: Callable[..., MythosConfig],
    randomised: Callable[..., Any],
    kv_heads: int,
    length: int,
    causal: bool,
    parts: dict[str, Any],
) -> None:
    cfg = tiny_config(attn_type="gqa", n_kv_heads=kv_heads, **parts)
    attn = randomised(GQAttention(cfg).double())
    x = torch.randn(2, length, cfg.dim, dtype=torch.float64)
    context = AttentionContext(rotary(torch.arange(length), cfg.head_dim, cfg.rope_theta), causal)
    q, seen = attn.project(x, context.rotary)
    assert seen["k"].shape == seen["v"].shape == (2, length, kv_heads, cfg.head_dim)
    want = by_definition(attn, x, causal)
    torch.testing.assert_close(attn.mix(q, seen, context), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("parts", PARTS[1:])
def test_queries_and_entries_alone_are_those_of_both(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any], parts: dict[str, Any]
) -> None:
    cfg = tiny_config(attn_type="gqa", **parts)
    attn = randomised(GQAttention(cfg).double())
    x = torch.randn(2, 5, cfg.dim, dtype=torch.float64)
    tables = rotary(torch.arange(5), cfg.head_dim, cfg.rope_theta)
    q, both = attn.project(x, tables)
    torch.testing.assert_close(attn.queries(x, tables), q)
    torch.testing.assert_close(attn.entries(x, tables), both)
    room = {name: torch.empty_like(entry) for name, entry in both.items()}
    torch.testing.assert_close(attn.fill(x, tables, room), q)
    torch.testing.assert_close(room, both)


def test_call_by_hand_equals_project_and_mix(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> None:
    cfg = tiny_config(attn_type="gqa")
    attn = randomised(GQAttention(cfg).double())
    x = torch.randn(2, 5, cfg.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(cfg.head_dim, cfg.max_seq_len, cfg.rope_theta)
    torch.testing.assert_close(attn(x, freqs), by_definition(attn, x, causal=False))
    mask = torch.full((1, 1, 5, 5), float("-inf"), dtype=torch.float64).triu(1)
    torch.testing.assert_close(attn(x, freqs, mask), by_definition(attn, x, causal=True))


@pytest.mark.parametrize("name", ["wq", "wk", "wv", "wo"])
def test_published_names_answer_with_the_real_values(
    name: str, tiny_config: Callable[..., MythosConfig]
) -> None:
    cfg = tiny_config(attn_type="gqa")
    attn = GQAttention(cfg)
    width = cfg.head_dim * (cfg.n_kv_heads if name in ("wk", "wv") else cfg.n_heads)
    shape = (cfg.dim, width) if name == "wo" else (width, cfg.dim)
    part = getattr(attn, name)
    assert part.weight.shape == shape
    x, freqs = torch.randn(1, 3, cfg.dim), precompute_rope_freqs(cfg.head_dim, 3)
    before = attn(x, freqs)
    with torch.no_grad():
        part.weight.mul_(torch.randn_like(part.weight))
    assert not torch.allclose(before, attn(x, freqs), atol=0, rtol=1e-6)


def test_dropout_acts_in_training_only(tiny_config: Callable[..., MythosConfig]) -> None:
    cfg = tiny_config(attn_type="gqa", dropout=0.5)
    attn, x = GQAttention(cfg), torch.randn(1, 6, cfg.dim)
    freqs = precompute_rope_freqs(cfg.head_dim, 6)
    attn.eval()
    assert torch.equal(attn(x, freqs), attn(x, freqs))
    attn.train()
    assert not torch.equal(attn(x, freqs), attn(x, freqs))


@given(length=st.integers(1, 6))
def test_queries_alone_are_those_of_project(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any], length: int
) -> None:
    cfg = tiny_config(attn_type="gqa")
    attn = randomised(GQAttention(cfg).double())
    x = torch.randn(2, length, cfg.dim, dtype=torch.float64)
    turns = rotary(torch.arange(3, 3 + length), cfg.rope_dim, cfg.rope_theta)
    q, _ = attn.project(x, turns)
    torch.testing.assert_close(attn.queries(x, turns), q, rtol=1e-9, atol=1e-9)
    attn.queries(x, turns).sum().backward()
    kv = attn.wqkv.weight.grad[cfg.dim :]
    assert kv.eq(0).all()  # keys and values take no part


@pytest.mark.parametrize("starts", [None, (0, 2, 4)], ids=str)
@torch.no_grad()
def test_one_query_against_a_whole_room_of_keys(
    tiny_config: Callable[..., MythosConfig],
    randomised: Callable[..., Any],
    starts: tuple[int, ...] | None,
) -> None:
    """With `lengths`, the cache shows its capacity: what is not yet written must not count."""
    cfg = tiny_config(attn_type="gqa")
    attn = randomised(GQAttention(cfg).double())
    lengths = torch.tensor([5, 3, 6])
    x = torch.randn(3, 6, cfg.dim, dtype=torch.float64)
    turns = rotary(torch.arange(6), cfg.rope_dim, cfg.rope_theta)
    q, keys = attn.project(x, turns)
    room = {n: t.new_full((3, 9, *t.shape[2:]), torch.nan) for n, t in keys.items()}
    newest = torch.stack([q[row, n - 1] for row, n in enumerate(lengths)])[:, None]
    for name, tensor in keys.items():
        for row, n in enumerate(lengths):
            room[name][row, :n] = tensor[row, :n]
    first = (0, 0, 0) if starts is None else starts
    begin = None if starts is None else torch.tensor(starts)
    got = attn.mix(newest, room, AttentionContext(turns, lengths=lengths, starts=begin))
    for row, n in enumerate(lengths.tolist()):
        seen = {name: t[row : row + 1, first[row] : n] for name, t in keys.items()}
        if first[row] >= n:
            assert got[row].eq(0).all()  # nothing to see
            continue
        want = attn.mix(newest[row : row + 1], seen, AttentionContext(turns))
        torch.testing.assert_close(got[row], want[0], rtol=1e-9, atol=1e-9)


def test_entries_alone_are_those_of_project(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]
) -> None:
    cfg = tiny_config(attn_type="gqa")
    attn = randomised(GQAttention(cfg).double())
    x = torch.randn(2, 5, cfg.dim, dtype=torch.float64)
    turns = rotary(torch.arange(3, 8), cfg.rope_dim, cfg.rope_theta)
    _, want = attn.project(x, turns)
    got = attn.entries(x, turns)
    assert list(got) == list(want)
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-9, atol=1e-9)
