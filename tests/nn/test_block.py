"""TransformerBlock: its equation, its frozen positions, and its published call form."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext, padding_mask
from open_mythos.nn.block import Frozen, TransformerBlock, run_blocks
from open_mythos.nn.cache import LayerCache
from open_mythos.nn.rotary import Rotary, precompute_rope_freqs, rotary


Parts = tuple[TransformerBlock, torch.Tensor, AttentionContext, torch.Tensor]


@pytest.fixture(params=[False, True])
def parts(
    request: pytest.FixtureRequest,
    attn_type: str,
    tiny_config: Callable[..., MythosConfig],
    randomised: Any,
) -> Parts:
    cfg = tiny_config(attn_type=attn_type)
    block = randomised(TransformerBlock(cfg, use_moe=request.param).double().eval())
    x = torch.randn(2, 5, cfg.dim, dtype=torch.float64)
    context = AttentionContext(rotary(torch.arange(5), cfg.rope_dim, cfg.rope_theta))
    freqs = precompute_rope_freqs(cfg.rope_dim, 5, cfg.rope_theta)
    return block, x, context, freqs


def test_run_is_two_residual_lines(parts: Parts) -> None:
    block, x, context, _ = parts
    y, trace = block.run(x, context)
    q, new = block.attn.project(block.attn_norm(x), context.rotary)
    middle = x + block.attn.mix(q, new, context)
    want = middle + block.ffn(block.ffn_norm(middle))
    torch.testing.assert_close(y, want, rtol=1e-10, atol=1e-10)
    for name, tensor in trace.new.items():
        torch.testing.assert_close(tensor, new[name])
    assert (trace.load is None) == (not hasattr(block.ffn, "router"))
    if trace.load is not None:
        assert trace.load.sum().item() == 2 * 5 * block.ffn.topk


def test_the_published_call_form_equals_run(parts: Parts) -> None:
    block, x, context, freqs = parts
    mask = torch.full((1, 1, 5, 5), float("-inf"), dtype=torch.float64).triu(1)
    want = block.run(x, context)[0]
    torch.testing.assert_close(block(x, freqs, mask), want, rtol=1e-9, atol=1e-9)
    cache: dict[str, Any] = {}
    got = [block(x[:, :2], freqs, mask[..., :2, :2], cache, "b")]
    got += [block(x[:, i : i + 1], freqs[i:], None, cache, "b") for i in range(2, 5)]
    torch.testing.assert_close(torch.cat(got, dim=1), want, rtol=1e-9, atol=1e-9)
    assert list(cache) == ["b"]


def test_frozen_positions_go_on_showing_their_old_entries(parts: Parts) -> None:
    block, x, context, _ = parts
    _, before = block.run(torch.randn_like(x), context)
    halted = torch.tensor([[True, False, True, False, False], [False] * 5])
    _, trace = block.run(x, context, frozen=Frozen(halted, before.new))
    _, fresh = block.run(x, context)
    for name, tensor in trace.new.items():
        assert torch.equal(tensor[halted], before.new[name][halted])
        assert torch.equal(tensor[~halted], fresh.new[name][~halted])


def test_running_positions_do_not_care_whether_others_are_skipped(parts: Parts) -> None:
    block, x, context, _ = parts
    active = torch.tensor([[True, False, True, False, True], [False, True, True, True, False]])
    full, _ = block.run(x, context)
    some, trace = block.run(x, context, active=active)
    torch.testing.assert_close(some[active], full[active], rtol=1e-10, atol=1e-10)
    if trace.load is not None:
        assert trace.load.sum().item() == active.sum().item() * block.ffn.topk


def test_skipping_everybody_is_possible(parts: Parts) -> None:
    block, x, context, _ = parts
    block.train()
    y, trace = block.run(x, context, active=torch.zeros(2, 5, dtype=torch.bool))
    y.sum().backward()
    assert y.isfinite().all()
    if trace.load is not None:
        assert trace.load.sum().item() == 0


def test_dropout_acts_on_both_lines_in_training_only(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    cfg = tiny_config(dropout=0.9)
    block = TransformerBlock(cfg)
    x, freqs = torch.randn(1, 4, cfg.dim), precompute_rope_freqs(cfg.rope_dim, 4)
    assert not torch.equal(block.train()(x, freqs), block(x, freqs))
    assert torch.equal(block.eval()(x, freqs), block(x, freqs))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("keep", [1, 3, 5, 9])
def test_the_last_positions_alone_are_those_of_all_and_all_are_cached(
    parts: Parts, keep: int, cached: bool, padded: bool
) -> None:
    block, x, context, _ = parts
    if padded:
        valid = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]) == 1
        context = replace(context, mask=padding_mask(valid, 5))
    caches = [LayerCache(block.attn.cfg.cache_widths, 2, 6, dtype=x.dtype) for _ in range(2)]
    whole, _ = block.run(x, context, caches[0] if cached else None)
    got, trace = block.run(x, context, caches[1] if cached else None, keep=keep)
    torch.testing.assert_close(got, whole[:, max(5 - keep, 0) :], rtol=1e-9, atol=1e-9)
    for name, store in caches[0].store.items():
        torch.testing.assert_close(caches[1].store[name], store, rtol=1e-9, atol=1e-9)
        assert trace.new[name].shape[1] == 5


@torch.no_grad()
def test_a_later_piece_sees_what_the_earlier_left_in_the_cache(parts: Parts) -> None:
    block, x, context, _ = parts
    whole, _ = block.run(x, context)
    cache = LayerCache(block.attn.cfg.cache_widths, 2, 6, dtype=x.dtype)
    tables = context.rotary
    for piece in (slice(0, 3), slice(3, 5)):
        where = Rotary(tables.cos[piece], tables.sin[piece])
        got, _ = block.run(x[:, piece], AttentionContext(where), cache, keep=1)
        cache.advance(piece.stop - piece.start)
        torch.testing.assert_close(got, whole[:, piece][:, -1:], rtol=1e-9, atol=1e-9)


def test_the_last_block_alone_leaves_positions_out_and_only_where_nobody_looks(
    parts: Parts,
) -> None:
    block, x, context, _ = parts
    blocks = nn.ModuleList([block, copy.deepcopy(block)])
    whole = run_blocks(blocks, x, context, None)
    assert whole.shape == x.shape
    for keep, left in ((0, 1), (2, 2), (5, 5)):
        got = run_blocks(blocks, x, context, None, keep)
        torch.testing.assert_close(got, whole[:, 5 - left :], rtol=1e-9, atol=1e-9)
    seen: list[torch.Size] = []
    assert not block.watched
    last = blocks[1]
    handle = last.ffn_norm.register_forward_hook(lambda _, args, y: seen.append(args[0].shape))
    assert last.watched
    torch.testing.assert_close(run_blocks(blocks, x, context, None, 1), whole)
    assert seen == [x.shape]
    handle.remove()
    assert run_blocks(blocks, x, context, None, 1).shape[1] == 1


@pytest.mark.parametrize("halted", [False, True])
@torch.no_grad()
def test_entries_written_in_place_are_those_that_are_copied(
    parts: Parts, halted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, x, context, _ = parts
    widths, tables = block.attn.cfg.cache_widths, context.rotary
    frozen = None
    if halted:  # some entries are not the block's own: they cannot be written by the projection
        _, old = block.attn.project(torch.randn_like(x), tables)
        frozen = Frozen(torch.rand(2, 5) < 0.5, old)
    caches = [LayerCache(widths, 2, 7, dtype=x.dtype) for _ in range(2)]
    want, told = block.run(x, context, caches[0], frozen)
    filled: list[torch.Tensor] = []
    fill = type(block.attn).fill

    def noting(self: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        filled.append(x)
        return fill(self, x, *rest)

    monkeypatch.setattr(type(block.attn), "fills", lambda *_: True)
    monkeypatch.setattr(type(block.attn), "fill", noting)
    got, trace = block.run(x, context, caches[1], frozen)
    assert len(filled) == (0 if halted else 1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    for name, store in caches[0].store.items():
        torch.testing.assert_close(caches[1].store[name], store, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(trace.new[name], told.new[name], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(trace.seen[name], told.seen[name], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_pieces_written_in_place_are_the_whole(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, x, context, _ = parts
    whole, _ = block.run(x, context)
    monkeypatch.setattr(type(block.attn), "fills", lambda *_: True)
    cache = LayerCache(block.attn.cfg.cache_widths, 2, 6, dtype=x.dtype)
    tables = context.rotary
    for piece in (slice(0, 2), slice(2, 5)):
        where = Rotary(tables.cos[piece], tables.sin[piece])
        got, _ = block.run(x[:, piece], AttentionContext(where), cache)
        cache.advance(piece.stop - piece.start)
        torch.testing.assert_close(got, whole[:, piece], rtol=1e-9, atol=1e-9)


def test_a_cpu_copies_entries_and_so_does_who_looks_at_the_norms(parts: Parts) -> None:
    block, x, _, _ = parts
    assert not block.attn.fills(x)


def test_blocks_run_one_after_the_other(tiny_config: Callable[..., MythosConfig]) -> None:
    cfg = tiny_config()
    blocks = torch.nn.ModuleList(TransformerBlock(cfg) for _ in range(3))
    x = torch.randn(2, 5, cfg.dim)
    context = AttentionContext(rotary(torch.arange(5), cfg.rope_dim, cfg.rope_theta))
    want = x
    for block in blocks:
        want = block.run(want, context)[0]
    assert torch.equal(run_blocks(blocks, x, context, None), want)
