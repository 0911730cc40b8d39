"""Every loop runs the core with maps of its own: the shared ones and a product of low rank."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.budget import flops_per_token, parameters
from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.context import AttentionContext
from open_mythos.nn.block import TransformerBlock
from open_mythos.nn.loop.corrections import Corrections
from open_mythos.nn.rotary import rotary


Build = Callable[..., OpenMythos]


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Callable[..., Any]) -> Build:
    def make(**changes: Any) -> OpenMythos:
        given = {"core_ffn": "dense", "core_layers": 2, "core_lora_rank": 3, "readout": "last"}
        model: OpenMythos = randomised(OpenMythos(tiny_config(**{**given, **changes})))
        return model.double().eval()

    return make


def maps(block: TransformerBlock) -> dict[str, Tensor]:
    ffn: Any = block.ffn
    return {
        "wqkv": block.attn.wqkv.weight,
        "wo": block.attn.wo.weight,
        "gate_up": ffn.gate_up.weight,
        "down": ffn.down.weight,
    }


def summed(model: OpenMythos, row: int) -> list[TransformerBlock]:
    """The core's layers with a row's corrections added to their weights."""
    blocks = copy.deepcopy(model.recurrent.blocks)
    for block, part in zip(blocks, model.recurrent.corrections, strict=True):
        for name, weight in maps(block).items():
            weight.data += (
                part.get_parameter(f"{name}_up")[row] @ part.get_parameter(f"{name}_down")[row]
            )
    return blocks


@pytest.mark.parametrize("beyond", ["hold", "cycle"])
def test_a_loop_is_the_core_with_summed_weights(build: Build, beyond: str) -> None:
    model = build(injection="none", loop_norm="none", loop_index=False, loop_lora=False,
                  loops_beyond=beyond)  # fmt: skip
    ids = torch.randint(37, (2, 7))
    with torch.no_grad():
        tables = rotary(torch.arange(7), model.cfg.rope_dim, model.cfg.rope_theta)
        context = AttentionContext(tables, causal=True)
        h = model.prelude[0].run(model.embed(ids), context)[0]
        for row in (0, 1, 2, 2 if beyond == "hold" else 0):
            for block in summed(model, row):
                h = block.run(h, context)[0]
        want = model.head(model.norm(model.coda[0].run(h, context)[0]))
        torch.testing.assert_close(model(ids, 4), want)
        assert not torch.allclose(model(ids, 3), want)


@pytest.mark.parametrize("kv", ["per_loop", "first"])
def test_cached_and_in_fixed_shapes_it_says_the_same(build: Build, kv: str) -> None:
    model, ids = build(kv=kv, readout="act", attention_bias=True), torch.randint(37, (2, 9))
    cache: dict[str, Any] = {}
    with torch.no_grad():
        want = model(ids, 4)
        pieces = [ids[:, :4], *ids[:, 4:].split(1, dim=1)]
        parts = [model(piece, 4, cache) for piece in pieces]
        torch.testing.assert_close(torch.cat(parts, dim=1), want)
    plain = model.generate(ids, 6, 4, temperature=0, static=False)
    assert torch.equal(model.generate(ids, 6, 4, temperature=0, static=True), plain)


def test_a_static_cache_follows_the_weights(build: Build) -> None:
    model, token = build(), torch.randint(37, (1,))
    cache = model.new_static_cache(1, 4, 2)
    with torch.no_grad():
        before = model.decode(token, cache)
        part: Any = model.recurrent.corrections[1]
        part.down_up[1] += 1.0
        model.refresh(cache)
        cache.position.zero_()
        after = model.decode(token, cache)
    torch.testing.assert_close(after, model(token[:, None], 2)[:, 0])
    assert not torch.allclose(before, after)


def test_nothing_is_corrected_at_the_start_and_every_run_loop_learns(
    tiny_config: Callable[..., MythosConfig],
) -> None:
    cfg = tiny_config(core_ffn="dense", core_lora_rank=2, readout="last")
    model, bare = (
        OpenMythos(cfg).double(),
        OpenMythos(tiny_config(core_ffn="dense", readout="last")),
    )
    bare.double().load_state_dict(
        {k: v for k, v in model.state_dict().items() if "corrections" not in k}
    )
    ids = torch.randint(37, (2, 6))
    torch.testing.assert_close(model(ids, 3), bare(ids, 3))
    model(ids, 2).square().mean().backward()
    for name, parameter in model.recurrent.corrections.named_parameters():
        slopes = parameter.grad.abs().amax(dim=(1, 2))
        assert slopes[2] == 0  # two loops were run
        assert (slopes[:2] > 0).all() == name.endswith("_up"), name


def test_slopes_are_those_of_summed_weights(build: Build) -> None:
    """By the chain rule from the slope of W + up @ down, taken by autograd alone."""
    model, ids = build(max_loop_iters=1, loop_lora=False), torch.randint(37, (2, 6))
    twin = copy.deepcopy(model)
    twin.recurrent.block, twin.recurrent.deeper[0] = summed(twin, 0)
    for parameter in twin.recurrent.corrections.parameters():
        parameter.data.zero_()
    model(ids, 1).square().mean().backward()
    twin(ids, 1).square().mean().backward()
    for block, part in zip(twin.recurrent.blocks, model.recurrent.corrections, strict=True):
        for name, weight in maps(block).items():
            down, up = part.get_parameter(f"{name}_down"), part.get_parameter(f"{name}_up")
            torch.testing.assert_close(up.grad[0], weight.grad @ down[0].T)
            torch.testing.assert_close(down.grad[0], up[0].T @ weight.grad)


def test_hooks_on_the_shared_maps_see_every_loop(build: Build) -> None:
    model, ids = build(), torch.randint(37, (1, 5))
    with torch.no_grad():
        want = model(ids, 3)
        seen: list[int] = []
        ffn: Any = model.recurrent.block.ffn
        for module in (model.recurrent.block.attn.wqkv, ffn.gate_up, ffn.down):
            module.register_forward_hook(lambda *_: seen.append(1))
        torch.testing.assert_close(model(ids, 3), want)
    assert len(seen) == 9


def test_it_is_saved_and_counted(build: Build, tmp_path: Path) -> None:
    model, ids = build(core_lora_rank=99, dense_hidden=9, head_width=2), torch.randint(37, (1, 5))
    model.save_pretrained(tmp_path / "m")
    torch.testing.assert_close(OpenMythos.from_pretrained(tmp_path / "m").double()(ids), model(ids))
    cfg = model.cfg
    assert parameters(cfg).total == sum(p.numel() for p in model.parameters())
    inside: Any = model.recurrent.corrections
    one = sum(p.numel() for p in inside.parameters()) // cfg.max_loop_iters
    bare = MythosConfig.from_dict({**cfg.to_dict(), "core_lora_rank": 0})
    assert flops_per_token(cfg, 2).loops - flops_per_token(bare, 2).loops == 2 * 2 * one
    assert parameters(cfg).active - parameters(bare).active == one


def test_the_rank_is_at_most_a_maps_smaller_side(tiny_config: Callable[..., MythosConfig]) -> None:
    cfg = tiny_config(core_ffn="dense", core_lora_rank=12, head_width=2, dense_hidden=5)
    part = Corrections(cfg)
    assert part.of(0).wo.down.shape == (8, 8)  # of 4 heads of width 2
    assert part.of(2).wqkv.up.shape == (16, 12)
    assert part.of(1).gate_up.up.shape == (10, 10)
    assert part.of(1).down.down.shape == (5, 5)
