"""This library as a contender: pinned loops, moving weights, tokens of both decoders."""

from dataclasses import replace

import pytest
import torch

from open_mythos.bench.ours import (
    GREEDY,
    Engine,
    Ours,
    Trainer,
    built,
    decoder,
    eager_decoder,
    moe_layer,
    prefiller,
    random_batches,
    use_experts,
)
from open_mythos.bench.sizes import size_tiny
from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos


CPU = torch.device("cpu")
PLAIN = Engine(precision="fp32")


@pytest.fixture
def cfg(attn_type: str) -> MythosConfig:
    return size_tiny().config(attn_type, max_loop_iters=3)


def test_every_loop_runs(cfg: MythosConfig) -> None:
    model = built(cfg, CPU).eval()
    out = model(torch.randint(0, 64, (2, 9)), 12, return_output=True)
    assert out.n_loops == 12
    assert bool((out.loops_used == 12).all())


def test_a_training_step_moves_the_weights(cfg: MythosConfig) -> None:
    trainer = Trainer(cfg, random_batches(cfg, 2, 8, (3,), CPU), CPU, PLAIN)
    model = trainer.state.model
    before = [p.detach().clone() for p in model.parameters()]
    losses = [trainer.loss() for _ in range(3)]
    assert all(torch.tensor(losses).isfinite())
    moved = [not p.equal(old) for p, old in zip(model.parameters(), before, strict=True)]
    assert sum(moved) >= len(moved) - 1  # the halting bias is beyond reach


def test_steps_that_overlap_are_the_same_steps(cfg: MythosConfig) -> None:
    source = random_batches(cfg, 2, 8, (3,), CPU)
    one, other = (Trainer(cfg, source, CPU, PLAIN) for _ in range(2))
    for _ in range(4):
        one.step()
        other.loss()
    assert one.state.step == other.state.step == 4
    for a, b in zip(one.state.model.parameters(), other.state.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    "engine",
    [Engine(precision="bf16"), Engine(precision="fp32", checkpoint=True, backprop_loops=2)],
    ids=str,
)
def test_other_engines_train_too(cfg: MythosConfig, engine: Engine) -> None:
    work = Ours(cfg, CPU, engine).train(2, 8)
    work.step()
    assert work.shape["backprop_loops"] == engine.backprop_loops


def test_depths_are_served_in_turn_and_may_change(cfg: MythosConfig) -> None:
    depths = [2, 5]
    source = random_batches(cfg, 2, 4, depths, CPU)
    assert [source.batch(step).n_loops for step in range(4)] == [2, 5, 2, 5]
    depths[:] = [7]
    assert source.batch(1).n_loops == 7
    assert not source.batch(0).ids.equal(source.batch(1).ids)


def test_flops_of_a_step_follow_the_mean_depth(cfg: MythosConfig) -> None:
    works = [Ours(cfg, CPU, PLAIN, depths).train(2, 8) for depths in ([2], [4], [2, 4])]
    low, high, mixed = (work.flops for work in works)
    assert mixed == pytest.approx((low + high) / 2)
    assert low < high


def test_both_decoders_continue_as_a_whole_pass_would(cfg: MythosConfig) -> None:
    model = built(cfg, CPU).eval()
    ids = torch.randint(0, cfg.vocab_size, (2, 6))
    both = [make(model, ids, 3, GREEDY) for make in (decoder, eager_decoder)]
    taken = [torch.stack([step() for _ in range(4)], 1) for step in both]
    known = ids
    with torch.no_grad():
        for _ in range(5):
            known = torch.cat((known, model(known, 3)[:, -1:].argmax(-1)), 1)
    assert taken[0].tolist() == taken[1].tolist() == known[:, 7:].tolist()


def test_prefill_gives_the_last_logits_each_time(cfg: MythosConfig) -> None:
    model = built(cfg, CPU).eval()
    ids = torch.randint(0, cfg.vocab_size, (2, 6))
    step = prefiller(model, ids, 3)
    with torch.no_grad():
        wanted = model(ids, 3)[:, -1]
    for _ in range(2):
        torch.testing.assert_close(step(), wanted)


@pytest.mark.parametrize("what", ["prefill", "decode"])
def test_inference_work_runs(cfg: MythosConfig, what: str) -> None:
    work = getattr(Ours(cfg, CPU, PLAIN), what)(2, 8)
    work.step()
    work.step()
    assert work.shape["loops"] == 3


def test_the_experts_backend_is_the_one_asked_for(cfg: MythosConfig) -> None:
    model = use_experts(OpenMythos(cfg), "reference")
    layer = moe_layer(replace(cfg), CPU, torch.float32, "loop")
    assert model.recurrent.block.ffn.experts_backend == "reference"
    assert layer.experts_backend == "loop"
    assert layer(torch.randn(2, 3, cfg.dim)).shape == (2, 3, cfg.dim)
