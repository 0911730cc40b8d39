"""Latent attention: both forms against one definition, and what it caches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention import mla
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.attention.mla import MLAttention, absorbed_is_cheaper
from open_mythos.nn.rotary import apply_rope, precompute_rope_freqs, rotary


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def by_definition(attn: MLAttention, x: torch.Tensor, queries: int) -> torch.Tensor:
    """The last `queries` positions of causal MLA, head by head, from the published weights."""
    cfg, length = attn.cfg, x.shape[1]
    nope, rope, vd, rank = (
        cfg.qk_nope_head_dim,
        cfg.qk_rope_head_dim,
        cfg.v_head_dim,
        cfg.kv_lora_rank,
    )
    table = precompute_rope_freqs(rope, length, cfg.rope_theta)
    q_latent = normed(x @ attn.q_down.weight.T, attn.q_norm.weight)
    down = x @ attn.kv_down.weight.T
    c = normed(down[..., :rank], attn.kv_norm.weight)
    shared = apply_rope(down[..., rank:].unsqueeze(2), table).squeeze(2)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    heads = []
    for h in range(cfg.n_heads):
        q_nope = q_latent @ attn.q_up_nope.weight[h * nope : (h + 1) * nope].T
        q_rope = q_latent @ attn.q_up_rope.weight[h * rope : (h + 1) * rope].T
        q_rope = apply_rope(q_rope.unsqueeze(2), table).squeeze(2)
        up = attn.kv_up.weight[h * (nope + vd) : (h + 1) * (nope + vd)]
        k_nope, v = c @ up[:nope].T, c @ up[nope:].T
        scores = q_nope @ k_nope.transpose(1, 2) + q_rope @ shared.transpose(1, 2)
        scores = (scores / (nope + rope) ** 0.5).masked_fill(later, float("-inf"))
        heads.append(scores.softmax(-1) @ v)
    return (torch.cat(heads, dim=-1) @ attn.wo.weight.T)[:, length - queries :]


@pytest.mark.parametrize("form", ["expanded", "absorbed", "auto"])
@given(length=st.integers(1, 6), data=st.data())
def test_every_form_equals_the_definition_with_gradients(
    form: str,
    tiny_config: Callable[..., MythosConfig],
    randomised: Callable[..., Any],
    length: int,
    data: st.DataObject,
) -> None:
    queries = data.draw(st.integers(1, length))
    cfg = tiny_config(attn_type="mla")
    attn = randomised(MLAttention(cfg).double())
    attn.form = form
    x = torch.randn(2, length, cfg.dim, dtype=torch.float64, requires_grad=True)
    turns = rotary(torch.arange(length), cfg.qk_rope_head_dim, cfg.rope_theta)
    q, seen = attn.project(x, turns)
    got = attn.mix(q[:, length - queries :], seen, AttentionContext(turns))
    want = by_definition(attn, x, queries)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    at, up = [x, *attn.parameters()], torch.randn_like(want)
    ours = torch.autograd.grad((got * up).sum(), at)
    theirs = torch.autograd.grad((want * up).sum(), at)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@given(length=st.integers(1, 6))
def test_heads_written_in_place_are_those_of_the_definition(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any], length: int
) -> None:
    attn = randomised(MLAttention(tiny_config(attn_type="mla")).double())
    attn.form = "expanded"
    x = torch.randn(2, length, attn.cfg.dim, dtype=torch.float64)
    turns = rotary(torch.arange(length), attn.cfg.qk_rope_head_dim, attn.cfg.rope_theta)
    asked: list[tuple[int, ...]] = []

    def always(lead: torch.Tensor, *_: torch.Tensor) -> str:
        asked.append(tuple(lead.shape))
        return "in place"

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(mla, "heads_backend", always)
        q, seen = attn.project(x, turns)
        got = attn.mix(q, seen, AttentionContext(turns))
        torch.testing.assert_close(attn.queries(x, turns), q)
    assert asked[:2] == [(2, length, attn.cfg.q_lora_rank), (2, length, attn.cfg.kv_lora_rank)]
    torch.testing.assert_close(got, by_definition(attn, x, length), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("part", ["q_up", "kv_up"])
def test_who_hooks_a_projection_sees_it_run_though_heads_are_written_in_place(
    part: str, tiny_config: Callable[..., MythosConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    attn = MLAttention(tiny_config(attn_type="mla"))
    monkeypatch.setattr(mla, "heads_backend", lambda *_: "in place")
    turns = rotary(torch.arange(3), attn.cfg.qk_rope_head_dim, attn.cfg.rope_theta)
    seen: list[torch.Size] = []
    getattr(attn, part).register_forward_hook(lambda *call: seen.append(call[-1].shape))
    with torch.no_grad():
        q, entries = attn.project(torch.randn(2, 3, attn.cfg.dim), turns)
        attn.mix(q, entries, AttentionContext(turns))
    assert len(seen) == 1


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
@pytest.mark.parametrize("additive", [False, True])
def test_masks_act_alike_in_both_forms(
    form: str,
    additive: bool,
    tiny_config: Callable[..., MythosConfig],
    randomised: Callable[..., Any],
) -> None:
    cfg = tiny_config(attn_type="mla")
    attn = randomised(MLAttention(cfg).double())
    x = torch.randn(2, 5, cfg.dim, dtype=torch.float64)
    freqs = precompute_rope_freqs(cfg.qk_rope_head_dim, 9, cfg.rope_theta)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    mask = torch.zeros(5, 5, dtype=torch.float64).masked_fill(~allowed, float("-inf"))
    attn.form = form
    got = attn(x, freqs, mask if additive else allowed)
    torch.testing.assert_close(got, by_definition(attn, x, 5), rtol=1e-9, atol=1e-9)


def test_cached_numbers_per_token_and_nothing_else(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    cfg = tiny_config(attn_type="mla")
    attn = MLAttention(cfg)
    turns = rotary(torch.arange(7), cfg.qk_rope_head_dim, cfg.rope_theta)
    _, entries = attn.project(torch.randn(2, 7, cfg.dim), turns)
    assert sum(t.numel() for t in entries.values()) == 2 * 7 * (
        cfg.kv_lora_rank + cfg.qk_rope_head_dim
    )


def test_one_query_is_absorbed_and_a_prompt_expanded_at_real_sizes() -> None:
    cfg = MythosConfig()
    assert absorbed_is_cheaper(cfg, queries=1, keys=2048)
    assert not absorbed_is_cheaper(cfg, queries=2048, keys=2048)


@given(queries=st.integers(1, 300), keys=st.integers(1, 300))
def test_the_choice_counts_multiply_adds(
    tiny_config: Callable[..., MythosConfig], queries: int, keys: int
) -> None:
    cfg = tiny_config(attn_type="mla")
    r, rope, nope, v = 8, 4, 6, 5
    expanded = keys * r * (nope + v) + queries * keys * (nope + rope) + queries * keys * v
    absorbed = queries * nope * r + queries * r * v + queries * keys * (r + rope + r)
    assert absorbed_is_cheaper(cfg, queries, keys) == (absorbed < expanded)


@pytest.mark.parametrize(
    "name", ["q_down", "q_norm", "q_up_nope", "q_up_rope", "kv_down", "kv_norm", "kv_up", "wo"]
)
def test_published_names_answer_with_the_real_values(
    name: str, tiny_config: Callable[..., MythosConfig]
) -> None:
    cfg = tiny_config(attn_type="mla")
    attn = MLAttention(cfg)
    x, freqs = torch.randn(1, 3, cfg.dim), precompute_rope_freqs(cfg.qk_rope_head_dim, 3)
    before = attn(x, freqs)
    with torch.no_grad():
        getattr(attn, name).weight.mul_(torch.rand_like(getattr(attn, name).weight) * 9)
    assert not torch.allclose(before, attn(x, freqs), atol=0, rtol=1e-6)


@given(length=st.integers(1, 6))
def test_queries_alone_are_those_of_project(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any], length: int
) -> None:
    cfg = tiny_config(attn_type="mla")
    attn = randomised(MLAttention(cfg).double())
    x = torch.randn(2, length, cfg.dim, dtype=torch.float64)
    turns = rotary(torch.arange(3, 3 + length), cfg.rope_dim, cfg.rope_theta)
    q, _ = attn.project(x, turns)
    torch.testing.assert_close(attn.queries(x, turns), q, rtol=1e-9, atol=1e-9)
    attn.queries(x, turns).sum().backward()
    kv = attn.down.weight.grad[cfg.q_lora_rank :]
    assert kv.eq(0).all()  # keys and values take no part


@pytest.mark.parametrize("starts", [None, (0, 2, 4)], ids=str)
@torch.no_grad()
def test_one_query_against_a_whole_room_of_keys(
    tiny_config: Callable[..., MythosConfig],
    randomised: Callable[..., Any],
    starts: tuple[int, ...] | None,
) -> None:
    """With `lengths`, the cache shows its capacity: what is not yet written must not count."""
    cfg = tiny_config(attn_type="mla")
    attn = randomised(MLAttention(cfg).double())
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
    cfg = tiny_config(attn_type="mla")
    attn = randomised(MLAttention(cfg).double())
    x = torch.randn(2, 5, cfg.dim, dtype=torch.float64)
    turns = rotary(torch.arange(3, 8), cfg.rope_dim, cfg.rope_theta)
    _, want = attn.project(x, turns)
    got = attn.entries(x, turns)
    assert list(got) == list(want)
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-9, atol=1e-9)
