"""TransformerBlock: its equation, its frozen positions, and its published call form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import Frozen, TransformerBlock, run_blocks
from open_mythos.nn.rotary import precompute_rope_freqs, rotary


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


def test_blocks_run_one_after_the_other(tiny_config: Callable[..., MythosConfig]) -> None:
    cfg = tiny_config()
    blocks = torch.nn.ModuleList(TransformerBlock(cfg) for _ in range(3))
    x = torch.randn(2, 5, cfg.dim)
    context = AttentionContext(rotary(torch.arange(5), cfg.rope_dim, cfg.rope_theta))
    want = x
    for block in blocks:
        want = block.run(want, context)[0]
    assert torch.equal(run_blocks(blocks, x, context, None), want)
