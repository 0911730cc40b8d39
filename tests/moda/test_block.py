"""One MoDA block: what it leaves for the layers above, and how it is normed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.moda import MoDAConfig
from open_mythos.moda.block import Depths, MoDABlock, MoDAttention
from open_mythos.nn.rotary import rotary


@pytest.mark.parametrize(("depth_from", "entries"), [("ffn", 1), ("attention", 1), ("both", 2)])
@torch.no_grad()
def test_each_layer_adds_its_entries_and_the_top_none(
    depth_from: str, entries: int, tiny: Callable[..., MoDAConfig]
) -> None:
    cfg = tiny(depth_from=depth_from)
    turns, x = rotary(torch.arange(4), 6, cfg.rope_base), torch.randn(2, 4, 12)
    below = Depths()
    for number in (1, 2):
        x, above, _ = MoDABlock(cfg)(x, turns, below)
        assert len(above.keys) == len(above.values) == number * entries
        assert above.keys[: len(below.keys)] == below.keys
        assert all(t.shape == (2, 4, 2, 6) for t in (*above.keys, *above.values))
        below = above
    top = MoDABlock(cfg, top=True)
    assert top.write is None
    assert top(x, turns, below)[1] is below


@pytest.mark.parametrize("block_norm", ["post", "pre"])
@torch.no_grad()
def test_norms_stand_where_they_are_said_to(
    block_norm: str, tiny: Callable[..., MoDAConfig], randomised: Callable[..., Any]
) -> None:
    cfg = tiny(block_norm=block_norm)
    block = randomised(MoDABlock(cfg).double())
    for stack in (block.moe.gate_up, block.moe.down):
        torch.nn.init.normal_(stack, std=0.3)
    turns, x = rotary(torch.arange(4), 6, cfg.rope_base), torch.randn(2, 4, 12).double()
    if block_norm == "post":
        middle = block.norm_attn(x + block.attn(x, turns, Depths())[0])
        want = block.norm_ffn(middle + block.moe(middle).out)
        read = want
    else:
        middle = x + block.attn(block.norm_attn(x), turns, Depths())[0]
        want = middle + block.moe(block.norm_ffn(middle)).out
        read = block.norm_write(want)
    got, depths, _ = block(x, turns, Depths())
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    key, value = block.write(read).unflatten(-1, (4, 6)).chunk(2, dim=-2)
    torch.testing.assert_close(depths.keys[0], turns.turn(key), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(depths.values[0], value, rtol=1e-9, atol=1e-9)


def test_other_positions_depths_are_out_of_sight(tiny: Callable[..., MoDAConfig]) -> None:
    cfg = tiny()
    attn, turns = MoDAttention(cfg), rotary(torch.arange(5), 6, cfg.rope_base)
    depths = Depths()
    for _ in range(2):
        key, value = (torch.randn(1, 5, 2, 6, requires_grad=True) for _ in range(2))
        depths = depths.plus(key, value)
    said, _ = attn(torch.randn(1, 5, 12), turns, depths)
    for t in range(5):
        slopes = torch.autograd.grad(
            said[0, t].square().sum(), [*depths.keys, *depths.values], retain_graph=True
        )
        for slope in slopes:
            reached = slope[0].abs().sum((-1, -2)) > 0
            assert reached.tolist() == [s == t for s in range(5)]


@torch.no_grad()
def test_depth_share_is_that_of_the_softmax(tiny: Callable[..., MoDAConfig]) -> None:
    cfg = tiny(n_heads_kv=4, head_dim=2)
    attn, turns = MoDAttention(cfg).double(), rotary(torch.arange(4), 2, cfg.rope_base)
    x = torch.randn(1, 4, 12, dtype=torch.float64)
    depths, stacks = Depths(), torch.randn(3, 2, 1, 4, 4, 2, dtype=torch.float64)
    assert attn.depth_share(x, turns, depths).eq(0).all()
    for key, value in stacks:
        depths = depths.plus(key, value)
    got = attn.depth_share(x, turns, depths)
    assert got.shape == (1, 4, 4)
    q, k = (
        turns.turn((x @ part.weight.T).unflatten(-1, (4, 2)))[0]
        for part in (attn.q_proj, attn.k_proj)
    )
    for t in range(4):
        for h in range(4):
            across = sum(float((q[t, h] @ k[s, h] / 2**0.5).exp()) for s in range(t + 1))
            down = sum(float((q[t, h] @ key[0, t, h] / 2**0.5).exp()) for key, _ in stacks)
            assert got[0, t, h].item() == pytest.approx(down / (down + across), rel=1e-6)


def test_dropout_acts_in_training_only(tiny: Callable[..., MoDAConfig]) -> None:
    cfg = tiny(attn_dropout=0.5)
    attn, turns = MoDAttention(cfg), rotary(torch.arange(5), 6, cfg.rope_base)
    x, depths = torch.randn(1, 5, 12), Depths().plus(*torch.randn(2, 1, 5, 2, 6))
    attn.eval()
    assert torch.equal(attn(x, turns, depths)[0], attn(x, turns, depths)[0])
    attn.train()
    assert not torch.equal(attn(x, turns, depths)[0], attn(x, turns, depths)[0])


@pytest.mark.parametrize(("name", "width"), [("q_proj", 24), ("k_proj", 12), ("v_proj", 12)])
def test_published_names_answer_with_the_real_values(
    name: str, width: int, tiny: Callable[..., MoDAConfig]
) -> None:
    cfg = tiny()
    attn, turns = MoDAttention(cfg), rotary(torch.arange(3), 6, cfg.rope_base)
    x = torch.randn(1, 3, 12)
    before = attn(x, turns, Depths())[0]
    weight = getattr(attn, name).weight
    assert weight.shape == (width, 12)
    with torch.no_grad():
        weight.mul_(torch.randn_like(weight))
    assert not torch.allclose(before, attn(x, turns, Depths())[0], atol=0, rtol=1e-6)
