"""ForwardOutput: every field against a computation by hand from the watched loop states."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos
from open_mythos.model.output import ForwardOutput
from open_mythos.model.view import look
from open_mythos.nn.block import run_blocks


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]
LOOPS = 5


def build(tiny_config: Config, randomised: Shake, **changes: Any) -> Any:
    """Positions halt at loops 2 to 5, or never; without a coda the readout is easy to see."""
    model = randomised(OpenMythos(tiny_config(coda_layers=0, **changes))).eval()
    with torch.no_grad():
        model.recurrent.act.halt.weight.mul_(2.0)
        model.recurrent.act.halt.bias.fill_(-1.2)
    return model


def watch(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Lists that fill with the loop states and the inputs of the experts, by forward hooks."""
    states: list[Tensor] = []
    inputs: list[Tensor] = []
    model.recurrent.act.register_forward_hook(lambda _, x, __: states.append(x[0].detach()))
    model.recurrent.block.ffn.register_forward_hook(lambda _, x, __: inputs.append(x[0].detach()))
    return states, inputs


def graves(p: list[float], threshold: float, *, settled: bool) -> tuple[list[float], int, float]:
    """Weights, loops taken and remainder of one position (Graves 2016, section 2.2)."""
    weights, spent, loops, remainder = [], 0.0, 0, 0.0
    for t, p_t in enumerate(p):
        if loops < t:  # halted before
            weights.append(0.0)
            continue
        loops = t + 1
        if spent + p_t >= threshold:
            remainder = 1.0 - spent
            weights.append(remainder)
            loops = t + 1
            return [*weights, *[0.0] * (len(p) - t - 1)], loops, remainder
        weights.append(p_t)
        spent += p_t
    if settled:
        remainder = 1.0 - (spent - p[-1])
        weights[-1] = remainder
    return weights, loops, remainder


@torch.no_grad()
@pytest.mark.parametrize("kind", ["act", "act_sum"])
def test_halting_fields_are_graves_by_hand(
    tiny_config: Config, randomised: Shake, attn_type: str, kind: str
) -> None:
    model = build(tiny_config, randomised, attn_type=attn_type, readout=kind)
    ids = torch.randint(0, model.cfg.vocab_size, (3, 7))
    plain = model(ids, n_loops=LOOPS, return_output=True)
    states, _ = watch(model)
    out = model(ids, n_loops=LOOPS, return_output=True)
    assert torch.allclose(out.logits, plain.logits, atol=1e-6)
    assert out.n_loops == len(states) == LOOPS
    p = torch.stack([torch.sigmoid(model.recurrent.act.halt(h)).squeeze(-1) for h in states])
    assert torch.allclose(out.halting, p, atol=1e-6)
    weights, loops, ponder = torch.zeros_like(p), torch.zeros(3, 7, dtype=torch.int64), 0.0
    for b in range(3):
        for s in range(7):
            w, n, r = graves(p[:, b, s].tolist(), model.cfg.act_threshold, settled=kind == "act")
            weights[:, b, s], loops[b, s] = torch.tensor(w), n
            ponder += (n + r) / 21
    assert torch.allclose(out.halting_weights, weights, atol=1e-6)
    assert torch.equal(out.loops_used, loops)
    assert len(loops.unique()) > 2  # the case is a mixed one
    assert float(out.ponder_cost) == pytest.approx(ponder, abs=1e-5)
    mean = sum(w.unsqueeze(-1) * h for w, h in zip(weights, states, strict=True))
    assert torch.allclose(out.logits, model.head(model.norm(mean)), atol=1e-5)


@torch.no_grad()
def test_state_rms_and_router_load_by_hand(
    tiny_config: Config, randomised: Shake, attn_type: str
) -> None:
    model = build(tiny_config, randomised, attn_type=attn_type)
    ids = torch.randint(0, model.cfg.vocab_size, (3, 7))
    states, inputs = watch(model)
    out = model(ids, n_loops=LOOPS, return_output=True)
    rms = torch.stack([h.square().mean().sqrt() for h in states])
    assert torch.allclose(out.state_rms, rms, atol=1e-6)
    start = run_blocks(model.prelude, model.embed(ids), look(ids, 0, None, model.cfg).context, None)
    steps = [b - a for a, b in pairwise([start, *states])]
    change = torch.stack([step.square().mean().sqrt() for step in steps])
    assert torch.allclose(out.state_change, change, atol=1e-6)
    ffn = model.recurrent.block.ffn
    for x, load in zip(inputs, out.router_load, strict=True):
        picks = (x @ ffn.router.weight.T + ffn.router_bias).topk(2, dim=-1).indices
        assert torch.equal(picks.flatten().bincount(minlength=5), load)
    assert out.router_load.sum(dim=1).tolist() == [3 * 7 * 2] * LOOPS


@torch.no_grad()
def test_padding_counts_in_no_field(
    tiny_config: Config, randomised: Shake, attn_type: str, halted: str
) -> None:
    model = build(tiny_config, randomised, attn_type=attn_type, halted=halted)
    ids = torch.randint(0, model.cfg.vocab_size, (1, 6))
    alone = model(ids, n_loops=LOOPS, return_output=True)
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.int64), ids), dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    out = model(padded, n_loops=LOOPS, attention_mask=mask, return_output=True)
    assert torch.allclose(out.logits[:, 3:], alone.logits, atol=1e-5)
    assert float(out.ponder_cost) == pytest.approx(float(alone.ponder_cost), abs=1e-5)
    assert torch.equal(out.router_load, alone.router_load)
    assert torch.allclose(out.state_rms, alone.state_rms, atol=1e-5)
    assert torch.allclose(out.state_change, alone.state_change, atol=1e-5)
    assert torch.equal(out.loops_used[:, 3:], alone.loops_used)


@torch.no_grad()
def test_readout_last_has_no_halting_fields(tiny_config: Config, randomised: Shake) -> None:
    model = build(tiny_config, randomised, readout="last")
    ids = torch.randint(0, model.cfg.vocab_size, (3, 7))
    out = model(ids, n_loops=LOOPS, return_output=True)
    assert out.halting is out.halting_weights is out.ponder_cost is None
    assert torch.equal(out.loops_used, torch.full((3, 7), LOOPS))
    assert out.state_rms.shape == (LOOPS,)
    assert out.router_load.shape == (LOOPS, 5)


@torch.no_grad()
def test_n_loops_is_what_ran(tiny_config: Config, randomised: Shake) -> None:
    model = build(tiny_config, randomised)
    model.recurrent.act.halt.weight.zero_()
    model.recurrent.act.halt.bias.fill_(0.0)  # p = 1/2 everywhere: halted after the second loop
    ids = torch.randint(0, model.cfg.vocab_size, (3, 7))
    out = model(ids, n_loops=LOOPS, return_output=True)
    assert out.n_loops == len(out.halting) == len(out.state_rms) == len(out.router_load) == 2
    assert torch.equal(out.loops_used, torch.full((3, 7), 2))
    assert float(out.ponder_cost) == pytest.approx(2.5)
    cached = model(ids, LOOPS, {}, return_output=True)
    assert cached.n_loops == LOOPS  # with a cache every loop runs
    assert torch.allclose(cached.logits, out.logits, atol=1e-6)
    trained = model.train()(ids, n_loops=LOOPS, return_output=True)
    assert trained.n_loops == LOOPS
    assert torch.allclose(trained.logits, out.logits, atol=1e-6)


def test_the_ponder_cost_falls_when_halting_rises(tiny_config: Config, randomised: Shake) -> None:
    """Its only slope is the remainder's: minus the sum of what was paid before the last loop."""
    model = build(tiny_config, randomised)
    ids = torch.randint(0, model.cfg.vocab_size, (3, 7))
    model(ids, n_loops=LOOPS, return_output=True).ponder_cost.backward()
    assert float(model.recurrent.act.halt.bias.grad) < 0.0
    assert model.embed.weight.grad.abs().sum() > 0


def test_the_record_is_frozen_and_plain(tiny_config: Config) -> None:
    out = OpenMythos(tiny_config()).eval()(torch.tensor([[1, 2]]), return_output=True)
    assert isinstance(out, ForwardOutput)
    with pytest.raises(FrozenInstanceError):
        out.n_loops = 1
    wanted = (
        "logits features n_loops halting halting_weights loops_used ponder_cost "
        "router_load state_rms row_loops loop_features state_change work"
    )
    assert [f.name for f in fields(out)] == wanted.split()
