"""A core of several blocks is those blocks one after the other, caches and loads kept apart."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.cache import LayerCache
from open_mythos.nn.loop.core import run_core
from open_mythos.nn.rotary import rotary


@pytest.mark.parametrize("core_ffn", ["moe", "dense"])
def test_it_is_its_blocks_in_turn(
    core_ffn: str,
    attn_type: str,
    tiny_config: Callable[..., MythosConfig],
    randomised: Callable[..., Any],
) -> None:
    cfg = tiny_config(core_layers=3, core_ffn=core_ffn, attn_type=attn_type)
    loop = randomised(OpenMythos(cfg).double().eval()).recurrent
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    context = AttentionContext(rotary(torch.arange(5), cfg.rope_dim, cfg.rope_theta))
    slot = LayerCache(cfg.loop_widths, 2, 8, dtype=x.dtype)
    got, trace = run_core(loop.blocks, x, context, slot)
    loads, want = [], x
    for i, block in enumerate(loop.blocks):
        alone = LayerCache(cfg.cache_widths, 2, 8, dtype=x.dtype)
        want, part = block.run(want, context, alone)
        for name, entry in alone.store.items():
            assert torch.equal(slot.layer(i).store[name], entry)
            assert entry[:, :5].ne(0).all()
        if part.load is not None:
            loads.append(part.load)
    torch.testing.assert_close(got, want)
    assert (trace.load is None) == (core_ffn == "dense")
    if loads:
        assert torch.equal(trace.load, torch.cat(loads))
    assert set(trace.new) == set(cfg.loop_widths)


def test_every_layers_bias_answers_its_own_load(tiny_config: Callable[..., MythosConfig]) -> None:
    model = OpenMythos(tiny_config(core_layers=2)).train()
    output = model(torch.randint(37, (2, 6)), 2, return_output=True)
    load = output.router_load.sum(0)
    assert load.shape == (10,)
    assert load.sum() == 2 * 2 * 2 * 6 * 2  # loops, layers, experts of a token, tokens
    assert torch.equal(model.update_router_bias(0.5), load)
    for ffn, own in zip(model.recurrent.mixtures, load.view(2, 5).double(), strict=True):
        assert torch.equal(ffn.router_bias.double(), 0.5 * (own.mean() - own).sign())
    assert not model.update_router_bias().any()


def test_a_dense_core_has_no_experts_to_balance(tiny_config: Callable[..., MythosConfig]) -> None:
    model = OpenMythos(tiny_config(core_ffn="dense")).train()
    output = model(torch.randint(37, (2, 6)), 3, return_output=True)
    assert output.router_load.shape == (3, 0)
    assert model.update_router_bias().shape == (0,)


def test_generation_and_files_with_every_part_at_once(
    tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any], tmp_path: Any
) -> None:
    cfg = tiny_config(
        core_layers=2,
        injection="hyper",
        untied_router=True,
        untied_attention=True,
        initial_state="learned",
        loop_norm="sandwich",
        block_norm="sandwich",
        prelude_norm=True,
    )
    model = randomised(OpenMythos(cfg).double().eval())  # near-ties of two tokens fall one way
    ids = torch.randint(37, (2, 5))
    plain = model.generate(ids, 6, 4, temperature=0, static=False)
    assert torch.equal(model.generate(ids, 6, 4, temperature=0, static=True), plain)
    held: dict[str, Any] = {}
    model(ids, 2, held)
    assert set(held["recurrent_loop_1"]) == {"k", "v", "k.1", "v.1"}
    again = model(ids[:, :1], 2, {k: dict(v) for k, v in held.items()})  # read anew from a copy
    torch.testing.assert_close(again, model(ids[:, :1], 2, held))
    model.save_pretrained(tmp_path / "m")
    loaded = OpenMythos.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(loaded(ids, 3), model(ids, 3))
