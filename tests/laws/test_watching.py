"""Whoever hooks or replaces `act` or `ffn` sees every position of every loop, undisturbed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from open_mythos.model.mythos import OpenMythos


Build = Callable[..., OpenMythos]
Watch = Callable[[nn.Module, list[tuple[Tensor, Tensor]]], None]


def by_replacing(module: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> None:
    original = module.forward

    def forward(x: Tensor) -> Tensor:
        y: Tensor = original(x)
        seen.append((x, y))
        return y

    module.forward = forward


def by_hook(module: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> None:
    module.register_forward_hook(lambda _, args, y: seen.append((args[0], y)))


def by_pre_hook(module: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> None:
    module.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[0])))


WATCHES = [by_replacing, by_hook, by_pre_hook]


@pytest.mark.parametrize("watch", WATCHES)
@pytest.mark.parametrize("what", ["act", "ffn"])
@pytest.mark.parametrize("readout", ["act", "act_sum"])
@torch.no_grad()
def test_every_position_of_every_loop_is_shown_and_the_logits_stay(
    watch: Watch, what: str, readout: str, halted: str, build: Build
) -> None:
    model = build(halted=halted, readout=readout, act_threshold=0.6)
    ids = torch.randint(37, (2, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    for given in (None, mask):
        before = model(ids, 4, attention_mask=given, return_output=True)
        seen: list[tuple[Tensor, Tensor]] = []
        module = model.recurrent.act if what == "act" else model.recurrent.block.ffn
        watch(module, seen)
        after = model(ids, 4, attention_mask=given, return_output=True)
        real = torch.ones_like(ids) == 1 if given is None else given == 1
        torch.testing.assert_close(after.logits[real], before.logits[real], rtol=1e-10, atol=1e-10)
        assert after.n_loops == before.n_loops == len(seen)
        for x, y in seen:
            assert x.shape == (2, 6, 16)
            if watch is not by_pre_hook:
                assert y.shape == ((2, 6) if what == "act" else (2, 6, 16))
        assert torch.equal(after.loops_used[real], before.loops_used[real])
        vars(module).pop("forward", None)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


@pytest.mark.parametrize("what", ["act", "ffn"])
def test_watching_does_not_change_the_count_of_tokens(what: str, halted: str, build: Build) -> None:
    """Else a recorder left in place would train the router bias on padding and halted tokens."""
    model = build(halted=halted, act_threshold=0.6).train()
    ids = torch.randint(37, (2, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    before = model(ids, 4, attention_mask=mask, return_output=True)
    by_hook(model.recurrent.act if what == "act" else model.recurrent.block.ffn, [])
    after = model(ids, 4, attention_mask=mask, return_output=True)
    assert torch.equal(after.router_load, before.router_load)


@pytest.mark.parametrize("kind", ["typed", "dict"])
@torch.no_grad()
def test_cached_decoding_is_watched_too(halted: str, kind: str, build: Build) -> None:
    model = build(halted=halted)
    model.recurrent.act.halt.bias.fill_(-9.0)  # nobody halts: every loop runs
    ids = torch.randint(37, (2, 5))
    whole = model(ids, 3)
    cache: Any = {} if kind == "dict" else model.new_cache(2, 5)
    halting: list[tuple[Tensor, Tensor]] = []
    routing: list[tuple[Tensor, Tensor]] = []
    by_replacing(model.recurrent.act, halting)
    by_replacing(model.recurrent.block.ffn, routing)
    got = [model(ids[:, :3], 3, cache), model(ids[:, 3:4], 3, cache), model(ids[:, 4:], 3, cache)]
    torch.testing.assert_close(torch.cat(got, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert [x.shape[1] for x, _ in halting] == [3] * 3 + [1] * 6
    assert [x.shape[1] for x, _ in routing] == [3] * 3 + [1] * 6


@torch.no_grad()
def test_a_replacement_really_replaces(build: Build) -> None:
    model = build()
    ids = torch.randint(37, (2, 5))
    model.recurrent.act.forward = lambda h: torch.full(h.shape[:2], 0.25, dtype=h.dtype)
    out = model(ids, 3, return_output=True)
    assert out.halting.eq(0.25).all()
    assert out.halting_weights[:, 0, 0].tolist() == [0.25, 0.25, 0.5]
    before = out.logits
    model.recurrent.block.ffn.forward = torch.zeros_like
    assert not torch.allclose(model(ids, 3), before)


def test_gradients_are_the_same_under_a_backward_hook(build: Build) -> None:
    model = build(halted="freeze", act_threshold=0.6).train()
    ids = torch.randint(37, (2, 5))
    model(ids, 3).square().sum().backward()
    want = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    calls: list[int] = []
    model.recurrent.block.ffn.register_full_backward_hook(lambda *_: calls.append(1))
    model(ids, 3).square().sum().backward()
    got = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(calls) == 3
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
