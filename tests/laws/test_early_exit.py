"""Loops that nobody needs are not run, and the cache does not notice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.block import TransformerBlock


Build = Callable[..., OpenMythos]


@contextmanager
def counted(model: OpenMythos, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Collects one entry per run of the recurrent block."""
    runs: list[int] = []
    block, run = model.recurrent.block, TransformerBlock.run

    def watch(self: TransformerBlock, *args: Any, **kwargs: Any) -> Any:
        if self is block:
            runs.append(1)
        return run(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TransformerBlock, "run", watch)
        yield runs


def eager(build: Build, bias: float, **changes: Any) -> OpenMythos:
    """A model whose positions halt at about sigmoid(bias) per loop."""
    model = build(**changes)
    with torch.no_grad():
        model.recurrent.act.halt.weight.mul_(0.1)
        model.recurrent.act.halt.bias.fill_(bias)
    return model


@pytest.mark.parametrize("kind", ["none", "typed", "dict"])
@pytest.mark.parametrize("readout", ["act", "act_last", "act_sum"])
@torch.no_grad()
def test_freeze_runs_fewer_loops_and_the_cache_serves_later_tokens(
    attn_type: str, kind: str, readout: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = eager(build, 5.0, attn_type=attn_type, readout=readout, halted="freeze")
    cache: Any = {"none": None, "typed": model.new_cache(2, 9), "dict": {}}[kind]
    ids = torch.randint(37, (2, 6))
    with counted(model, monkeypatch) as runs:
        out = model(ids, 8, cache, return_output=True)
    assert out.n_loops == len(runs) == int(out.loops_used.max()) < 8
    if cache is None:
        return
    # Later tokens are slow thinkers: they look into loops that the first call never ran.
    model.recurrent.act.halt.bias.fill_(-2.0)
    more = torch.randint(37, (2, 3))
    late = model(more, 8, cache, return_output=True)
    assert late.n_loops > out.n_loops
    model.recurrent.act.halt.bias.fill_(5.0)
    reference = {} if kind == "typed" else model.new_cache(2, 9)
    model.train()  # training runs every loop, so nothing is filled in
    assert model(ids, 8, reference, return_output=True).n_loops == 8
    model.recurrent.act.halt.bias.fill_(-2.0)
    want = model(more, 8, reference)
    torch.testing.assert_close(late.logits, want, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_continue_stops_only_without_a_cache(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = eager(build, 5.0, halted="continue")
    ids = torch.randint(37, (2, 6))
    with counted(model, monkeypatch) as runs:
        short = model(ids, 8, return_output=True)
    assert short.n_loops == len(runs) == int(short.loops_used.max()) < 8
    for cache in ({}, model.new_cache(2, 6)):
        with counted(model, monkeypatch) as runs:
            full = model(ids, 8, cache, return_output=True)
        assert full.n_loops == len(runs) == 8
        torch.testing.assert_close(full.logits, short.logits, rtol=1e-12, atol=1e-12)
        assert torch.equal(full.loops_used, short.loops_used)


@pytest.mark.parametrize("halted", ["continue", "freeze"])
@torch.no_grad()
def test_one_slow_position_keeps_the_loop_running(halted: str, build: Build) -> None:
    model = eager(build, 5.0, halted=halted)
    ids = torch.randint(37, (2, 6))
    out = model(ids, 8, return_output=True)

    def slow_last(h: Tensor) -> Tensor:
        p = torch.full(h.shape[:2], 0.99, dtype=h.dtype)
        p[-1, -1] = 0.0
        return p

    model.recurrent.act.forward = slow_last
    slow = model(ids, 8, return_output=True)
    assert slow.n_loops == 8 > out.n_loops
    assert slow.loops_used.flatten()[:-1].eq(1).all()
    assert slow.loops_used[-1, -1] == 8


@pytest.mark.parametrize("halted", ["continue", "freeze"])
def test_training_runs_every_loop_and_gives_the_same_logits(halted: str, build: Build) -> None:
    model = eager(build, 5.0, halted=halted)
    ids = torch.randint(37, (2, 6))
    fast = model(ids, 8, return_output=True)
    full = model.train()(ids, 8, return_output=True)
    assert full.n_loops == 8 > fast.n_loops
    torch.testing.assert_close(full.logits, fast.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(full.ponder_cost, fast.ponder_cost)
    weights = full.halting_weights
    assert weights[fast.n_loops :].eq(0).all()
    torch.testing.assert_close(weights[: fast.n_loops], fast.halting_weights)


def test_gradients_do_not_depend_on_stopping_early(attn_type: str, build: Build) -> None:
    for halted in ("continue", "freeze"):
        model = eager(build, 1.0, attn_type=attn_type, halted=halted, act_threshold=0.6)
        ids = torch.randint(37, (2, 6))
        grads = []
        for mode in (True, False):
            model.train(mode).zero_grad()
            out = model(ids, 6, return_output=True)
            (out.logits.square().sum() + out.ponder_cost).backward()
            grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert len(grads[0]) == len(grads[1])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_freeze_and_continue_are_different_networks(build: Build) -> None:
    """Else every law about the two would hold of one of them by accident."""
    model = build(halted="continue", act_threshold=0.6)

    def first_at_once(h: Tensor) -> Tensor:
        """Halts whom all others look at, after one loop, and nobody else."""
        p = torch.zeros(h.shape[:2], dtype=h.dtype)
        p[:, 0] = 0.99
        return p

    model.recurrent.act.forward = first_at_once
    ids = torch.randint(37, (2, 6))
    one = model(ids, 4, return_output=True)
    model.cfg.halted = "freeze"
    model.recurrent.cfg.halted = "freeze"
    two = model(ids, 4, return_output=True)
    assert one.loops_used.unique().tolist() == [1, 4]
    assert not torch.allclose(one.logits, two.logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_readout_last_never_stops(
    halted: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = eager(build, 20.0, readout="last", halted=halted)
    with counted(model, monkeypatch) as runs:
        out = model(torch.randint(37, (1, 4)), 5, return_output=True)
    assert out.n_loops == len(runs) == 5
    assert out.loops_used.eq(5).all()


@torch.no_grad()
def test_padding_does_not_keep_the_loop_running(build: Build) -> None:
    model = eager(build, 5.0, halted="freeze")

    def padding_is_slow(h: Tensor) -> Tensor:
        p = torch.full(h.shape[:2], 0.99, dtype=h.dtype)
        p[0, 0] = 0.0
        return p

    model.recurrent.act.forward = padding_is_slow
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    ids, more = torch.randint(37, (2, 3)), torch.randint(37, (2, 1))
    cache = model.new_cache(2, 4)
    assert model(ids, 6, cache, attention_mask=mask, return_output=True).n_loops == 1
    del model.recurrent.act.forward
    whole = torch.cat((ids, more), dim=1)
    got = model(more, 6, cache)
    model.recurrent.act.forward = lambda h: torch.cat(
        (
            torch.full((2, h.shape[1] - 1), 0.99, dtype=h.dtype),
            type(model.recurrent.act).forward(model.recurrent.act, h)[:, -1:],
        ),
        dim=1,
    )
    want = model(whole, 6, attention_mask=torch.cat((mask, torch.ones(2, 1).long()), dim=1))
    torch.testing.assert_close(got[:, 0], want[:, -1], rtol=1e-9, atol=1e-9)
