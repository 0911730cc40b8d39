"""Each token is counted once, whatever is recomputed, and counts move the bias."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from open_mythos.model.mythos import OpenMythos


Build = Callable[..., OpenMythos]


@pytest.fixture
def model(build: Build) -> OpenMythos:
    return build().train()


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(37, shape)


@pytest.mark.parametrize("mode", ["plain", "reentrant", "non_reentrant"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_load_is_counted_once(model: OpenMythos, mode: str, micro_batches: int) -> None:
    ffn = model.recurrent.block.ffn
    want = torch.zeros(5, dtype=torch.int64)
    for _ in range(micro_batches):
        batch = ids(2, 6)
        want += model.eval()(batch, 3, return_output=True).router_load.sum(0)
        model.train()
        if mode == "plain":
            logits = model(batch, 3)
        else:
            # The reentrant form needs an input that wants a gradient.
            dummy = torch.zeros((), requires_grad=True)
            logits = checkpoint(
                lambda d, b=batch: model(b, 3) + d, dummy, use_reentrant=mode == "reentrant"
            )
        logits.square().sum().backward()
    assert torch.equal(ffn.load, want)
    assert model.update_router_bias().sum().item() == micro_batches * 2 * 6 * 3 * ffn.topk


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient(model: OpenMythos, reentrant: bool) -> None:
    batch = ids(2, 6)
    model(batch, 3).square().sum().backward()
    want = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    dummy = torch.zeros((), requires_grad=True)
    out = checkpoint(lambda d: model(batch, 3) + d, dummy, use_reentrant=reentrant)
    out.square().sum().backward()
    got = [p.grad for p in model.parameters() if p.grad is not None]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_evaluation_and_generation_are_not_counted(model: OpenMythos) -> None:
    load = model.recurrent.block.ffn.load
    model.eval()
    model(ids(2, 6), 2)
    model.train()
    model.generate(ids(1, 3), max_new_tokens=3, n_loops=2)
    assert model.training
    assert load.eq(0).all()
    with torch.no_grad():
        model(ids(2, 6), 2)  # a training-mode pass counts, with or without gradients
    assert load.sum().item() == 2 * 6 * 2 * model.cfg.n_experts_per_tok


def test_a_failing_pass_is_not_counted(model: OpenMythos, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("injected")

    monkeypatch.setattr(model.coda[0].ffn, "forward", fail)
    with pytest.raises(KeyError):
        model(ids(2, 6), 2)
    assert model.recurrent.block.ffn.load.eq(0).all()


def test_the_bias_moves_towards_underused_experts_and_the_count_starts_again(
    model: OpenMythos,
) -> None:
    ffn = model.recurrent.block.ffn
    model(ids(4, 8), 2)
    load, before = ffn.load.clone(), ffn.router_bias.clone()
    returned = model.update_router_bias(0.01)
    assert torch.equal(returned, load)
    assert ffn.load.eq(0).all()
    mean = load.double().mean()
    moved = (ffn.router_bias - before).double()
    torch.testing.assert_close(moved, 0.01 * (mean - load).sign(), rtol=1e-4, atol=1e-7)
    assert model.update_router_bias(0.01).eq(0).all()
    torch.testing.assert_close(ffn.router_bias, before + moved)


@torch.no_grad()
def test_repeated_updates_even_out_a_collapsed_router(model: OpenMythos) -> None:
    ffn = model.recurrent.block.ffn
    ffn.router_bias.zero_()
    ffn.router_bias[0] = 3.0
    batch = ids(4, 8)

    def spread() -> float:
        model(batch, 2)
        load = model.update_router_bias(0.05).double()
        return (load.max() / load.mean()).item()

    first = spread()
    last = [spread() for _ in range(120)][-10:]
    assert first > 2.0
    assert sum(last) / 10 < 1.6


def test_halted_positions_are_not_counted_when_frozen(build: Build) -> None:
    model = build(halted="freeze", act_threshold=0.6).train()
    out = model(ids(2, 6), 4, return_output=True)
    still_in = (out.loops_used.unsqueeze(0) > torch.arange(4).view(-1, 1, 1)).sum(dim=(1, 2))
    assert out.loops_used.unique().numel() > 1
    assert torch.equal(out.router_load.sum(1), still_in * model.cfg.n_experts_per_tok)
    assert torch.equal(model.recurrent.block.ffn.load, out.router_load.sum(0))


def test_padding_is_not_counted(build: Build) -> None:
    for halted in ("continue", "freeze"):
        model = build(halted=halted, readout="last").train()
        mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
        model(ids(2, 4), 3, attention_mask=mask)
        total = model.recurrent.block.ffn.load.sum().item()
        assert total == 6 * 3 * model.cfg.n_experts_per_tok
