"""Decoding in fixed shapes: an uncached pass's logits, whatever the room was filled with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.cache import LayerCache
from open_mythos.nn.static_cache import StaticCache, StaticSlot


Build = Callable[..., OpenMythos]


@pytest.fixture
def build(tiny_config: Callable[..., MythosConfig], randomised: Any) -> Build:
    def make(cfg: MythosConfig | None = None, **changes: Any) -> OpenMythos:
        cfg = tiny_config(**changes) if cfg is None else cfg
        net: OpenMythos = randomised(OpenMythos(cfg).double().eval())
        return net

    return make


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def prefilled(
    model: OpenMythos,
    prompt: Tensor,
    capacity: int,
    n_loops: int,
    mask: Tensor | None = None,
    rubbish: float = 0.0,
) -> StaticCache:
    """A static cache that has read `prompt` and is full of `rubbish` behind it."""
    cache = model.new_static_cache(prompt.shape[0], capacity, n_loops)
    for _, slot in cache.whole.slots():
        for store in slot.store.values():
            store.fill_(rubbish)
    if prompt.shape[1]:
        model(prompt, n_loops, cache.whole, attention_mask=mask)
        cache.position.fill_(prompt.shape[1])
    return cache


# -- a slot ----------------------------------------------------------------------------------------


def test_a_slot_writes_where_the_position_says_and_shows_its_whole_room() -> None:
    plain = LayerCache({"a": (3,), "b": (2, 2)}, batch=2, capacity=5)
    first = {"a": torch.randn(2, 2, 3), "b": torch.randn(2, 2, 2, 2)}
    plain.extend(first)
    plain.advance(2)
    position = torch.tensor([2])
    slot = StaticSlot(plain, position)
    want = {
        name: torch.cat((t, torch.zeros_like(t[:, :1]).repeat_interleave(3, 1)), dim=1)
        for name, t in first.items()
    }
    where = {name: plain.store[name].data_ptr() for name in first}
    for at in (2, 4):
        position.fill_(at)
        new = {name: torch.randn_like(t[:, :1]) for name, t in first.items()}
        seen = slot.extend(new)
        for name, tensor in new.items():
            want[name][:, at : at + 1] = tensor
            assert torch.equal(seen[name], want[name])
            assert seen[name].data_ptr() == where[name]  # a captured graph reads this address
    assert plain.length == 2


# -- decode ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_decode_equals_an_uncached_pass(any_config: MythosConfig, build: Build) -> None:
    model = build(any_config)
    ids = torch.randint(37, (3, 7))
    whole = model(ids, 3)
    for prompt in (0, 3):
        cache = prefilled(model, ids[:, :prompt], 9, 3, rubbish=float("nan"))
        for at in range(prompt, 7):
            close(model.decode(ids[:, at], cache), whole[:, at])
            assert cache.position.tolist() == [at + 1]


@torch.no_grad()
def test_decode_with_padding_on_the_left_equals_each_row_alone(
    any_config: MythosConfig, build: Build
) -> None:
    model = build(any_config)
    ids, starts = torch.randint(37, (3, 7)), torch.tensor([0, 3, 1])
    mask = torch.arange(7) >= starts[:, None]
    cache = prefilled(model, ids[:, :4], 9, 3, mask[:, :4], rubbish=float("nan"))
    steps = [model.decode(ids[:, at], cache, starts=starts) for at in range(4, 7)]
    for row, start in enumerate(starts.tolist()):
        alone = model(ids[row : row + 1, start:], 3)[0, -3:]
        close(torch.stack([step[row] for step in steps]), alone)
    close(torch.stack(steps, dim=1), model(ids, 3, attention_mask=mask)[:, 4:])


@pytest.mark.parametrize("loops", [1, 5])  # the config's number is 3: its adapter has 3 rows
@torch.no_grad()
def test_decode_runs_as_many_loops_as_the_cache_was_made_for(
    attn_type: str, loops: int, build: Build
) -> None:
    model = build(attn_type=attn_type)
    ids = torch.randint(37, (2, 4))
    cache = prefilled(model, ids[:, :3], 4, loops)
    close(model.decode(ids[:, 3], cache), model(ids, loops)[:, 3])


@torch.no_grad()
def test_the_whole_room_can_be_used_and_used_again(build: Build) -> None:
    model = build()
    cache = model.new_static_cache(2, 6, 2)
    for _ in range(2):
        ids = torch.randint(37, (2, 6))
        cache.whole.truncate(0)
        model(ids[:, :2], 2, cache.whole)
        cache.position.fill_(2)
        steps = [model.decode(ids[:, at], cache) for at in range(2, 6)]
        close(torch.stack(steps, dim=1), model(ids, 2)[:, 2:])


@torch.no_grad()
def test_a_static_cache_goes_on_where_the_whole_one_is(attn_type: str, build: Build) -> None:
    model = build(attn_type=attn_type)
    ids = torch.randint(37, (2, 5))
    made = model.new_static_cache(2, 8, 3)
    whole = model.new_cache(2, 8)
    model(ids[:, :4], 3, whole)
    cache = StaticCache(whole, made.rotary, made.constants)
    assert cache.position.tolist() == [4]
    close(model.decode(ids[:, 4], cache), model(ids, 3)[:, 4])


@torch.no_grad()
def test_decode_keeps_every_address(build: Build) -> None:
    """What a captured graph reads and writes must not move between steps."""
    model = build(kv="per_loop")
    cache = model.new_static_cache(2, 6, 3)

    def addresses() -> list[int]:
        stores = [t for _, slot in cache.whole.slots() for t in slot.store.values()]
        fixed = [cache.position, *cache.constants.tensors(), *stores]
        return [t.data_ptr() for t in fixed]

    before = addresses()
    for _ in range(3):
        model.decode(torch.randint(37, (2,)), cache)
    model.refresh(cache)
    assert addresses() == before


# -- refresh ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_refresh_follows_weights_that_changed_in_place(injection: str, build: Build) -> None:
    model = build(injection=injection)
    ids = torch.randint(37, (2, 4))
    cache = prefilled(model, ids[:, :3], 4, 3)
    old = model.decode(ids[:, 3], cache)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    cache.whole.truncate(0)
    model.refresh(cache)
    model(ids[:, :3], 3, cache.whole)
    cache.position.fill_(3)
    new = model.decode(ids[:, 3], cache)
    close(new, model(ids, 3)[:, 3])
    assert not torch.allclose(new, old, rtol=1e-3, atol=1e-3)


def test_refresh_leaves_the_weights_of_a_pass_in_flight_alone(build: Build) -> None:
    """Tokens may be drawn between a loss and its gradient."""
    model = build()
    cache = model.new_static_cache(2, 4, 3)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    loss = model(torch.randint(37, (2, 4)), 3).square().sum()
    model.refresh(cache)
    loss.backward()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


# -- experts laid out for a compiled step ----------------------------------------------------------


@torch.no_grad()
def test_a_cache_for_a_compiled_row_reads_its_own_experts_and_refreshes_them(build: Build) -> None:
    model = build(core_layers=2)
    ids = torch.randint(37, (1, 4))
    cache = model.new_static_cache(1, 4, 3, compiled=True)
    own = [layer.stacks for layer in cache.constants.ticks[0].own]
    blocks = model.recurrent.blocks
    for _ in range(2):
        for stacks, block in zip(own, blocks, strict=True):
            assert stacks is not None
            assert torch.equal(stacks.gate_up, block.ffn.gate_up)
            assert torch.equal(stacks.down, block.ffn.down)
            assert stacks.gate_up.stride(1) == stacks.down.stride(1) == 1
        for tick in cache.constants.ticks:  # one copy serves all loops
            assert [layer.stacks for layer in tick.own] == own
        cache.whole.truncate(0)
        model(ids[:, :3], 3, cache.whole)
        cache.position.fill_(3)
        close(model.decode(ids[:, 3], cache), model(ids, 3)[:, 3])
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.refresh(cache)
    for stacks in own:  # who reads them: a change of the copy alone is heard
        assert stacks is not None
        stacks.down.mul_(-1)
    cache.whole.truncate(0)
    model(ids[:, :3], 3, cache.whole)
    cache.position.fill_(3)
    assert not torch.allclose(model.decode(ids[:, 3], cache), model(ids, 3)[:, 3], rtol=1e-3)


@torch.no_grad()
def test_only_one_compiled_row_has_experts_of_its_own(build: Build) -> None:
    model = build()
    assert model.new_static_cache(1, 4, 2, compiled=True).constants.stacked
    assert not model.new_static_cache(2, 4, 2, compiled=True).constants.stacked
    assert not model.new_static_cache(1, 4, 2).constants.stacked
