"""Experts on several ranks, against the same experts in one process."""

import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.utils import counters

from open_mythos.nn.moe.layer import MoEFFN
from open_mythos.ops.experts import run_experts
from open_mythos.ops.routing import route
from open_mythos.parallel.degrees import Degrees
from open_mythos.parallel.experts import SpreadMoE, exchange, run_spread
from open_mythos.parallel.mesh import Axis, open_mesh
from open_mythos.parallel.spread import Spread
from tests.parallel.twin import ROWS, alone, batch, network, optimiser, spread_out, together
from tests.parallel.workers import Workers


pytestmark = pytest.mark.slow
EXPERTS, DIM, HIDDEN, PICKED = 6, 8, 5, 2
# Tokens of either rank, and by how much the router prefers low experts (the first rank's).
CASES = [(7, 7, 0.0), (5, 0, 0.0), (0, 0, 0.0), (3, 9, 50.0), (1, 1, -50.0)]


def layer(tokens: int, preference: float, seed: int) -> tuple[Tensor, ...]:
    """Tokens and scores of one rank, and the stacks that all have; float64, with gradient."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, DIM, generator=draw, dtype=torch.float64)
    scores = torch.randn(tokens, EXPERTS, generator=draw, dtype=torch.float64)
    scores = scores - preference * torch.arange(EXPERTS)
    same = torch.Generator().manual_seed(7)
    gate_up = torch.randn(EXPERTS, DIM, 2 * HIDDEN, generator=same, dtype=torch.float64)
    down = torch.randn(EXPERTS, HIDDEN, DIM, generator=same, dtype=torch.float64)
    return tuple(t.requires_grad_() for t in (x, scores, gate_up, down))


def axis_of(world: int) -> Axis:
    return open_mesh(Degrees(expert=world), torch.device("cpu")).expert


def _mixed(case: tuple[int, int, float]) -> list[list[float]]:
    rank, world = dist.get_rank(), dist.get_world_size()
    x, scores, gate_up, down = layer(case[rank], case[2], rank)
    share = EXPERTS // world
    mine = [stack.detach()[rank * share :][:share].clone() for stack in (gate_up, down)]
    for stack in mine:
        stack.requires_grad_()
    routing = route(scores, torch.zeros(EXPERTS), PICKED)
    out = run_spread(x, routing, mine[0], mine[1], axis_of(world))
    out.square().sum().backward()
    found = [out, x.grad, scores.grad, *(stack.grad for stack in mine)]
    return [[] if part is None else part.detach().flatten().tolist() for part in found]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_find_their_experts_wherever_they_are(two: Workers, case: Any) -> None:
    answers = two(_mixed, case)
    stacks = [torch.zeros(EXPERTS, DIM, 2 * HIDDEN), torch.zeros(EXPERTS, HIDDEN, DIM)]
    for rank, (out, x_grad, score_grad, *_) in enumerate(answers):
        x, scores, gate_up, down = layer(case[rank], case[2], rank)
        routing = route(scores, torch.zeros(EXPERTS), PICKED)
        expected = run_experts(x, routing.ids, routing.weights, gate_up, down, "reference")
        close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
        close(out, expected.detach().flatten().tolist())
        if case[rank]:
            expected.square().sum().backward()
            close(x_grad, x.grad.flatten().tolist())
            close(score_grad, scores.grad.flatten().tolist())
            stacks = [t + s.grad for t, s in zip(stacks, (gate_up, down), strict=True)]
    for index, whole in enumerate(stacks):  # what both ranks' tokens say to each expert
        found = torch.tensor([v for answer in answers for v in answer[3 + index]])
        torch.testing.assert_close(found.double(), whole.double().flatten())


def _sent_back() -> list[list[float]]:
    rank = dist.get_rank()
    rows = (torch.arange(3.0) + 10 * rank).unsqueeze(1).requires_grad_()
    sent = [1, 2] if rank == 0 else [3, 0]
    received = [1, 3] if rank == 0 else [2, 0]
    there = exchange(rows, sent, received, axis_of(2))
    (there * (1 + rank)).sum().backward()
    assert rows.grad is not None
    return [there.flatten().tolist(), rows.grad.flatten().tolist()]


def test_rows_and_their_gradients_travel_opposite_ways(two: Workers) -> None:
    (first, first_grad), (second, second_grad) = two(_sent_back)
    assert (first, second) == ([0.0, 10.0, 11.0, 12.0], [1.0, 2.0])
    assert (first_grad, second_grad) == ([1.0, 2.0, 2.0], [1.0, 1.0, 1.0])


def _laid_out() -> Any:
    model = network()
    spread_out(model, {"expert": 2})
    ffn = model.recurrent.block.ffn
    assert isinstance(ffn, SpreadMoE)
    assert isinstance(ffn, MoEFFN)
    names = [name for name, p in model.named_parameters() if p.ndim == 3]
    return names, tuple(ffn.gate_up.shape), len(ffn.router.weight), model.recurrent.lockstep


def test_a_rank_holds_its_share_of_the_stacks_and_the_whole_router(two: Workers) -> None:
    names = [f"recurrent.block.ffn.stacks.{name}" for name in ("gate_up", "down")]
    assert two(_laid_out) == [(names, (3, 16, 12), 6, True)] * 2


def _halting_apart() -> list[int]:
    """In evaluation one rank's positions have all halted at once, the other's never do."""
    model = network(act_threshold=0.6)
    with torch.no_grad():
        model.recurrent.act.halt.weight.zero_()
        model.recurrent.act.halt.bias.fill_(9.0 if dist.get_rank() == 0 else -9.0)
    spread_out(model, {"expert": 2})
    model.eval()
    with torch.no_grad():
        out = model(batch(0)[0], 4, return_output=True)
    return [out.n_loops, int(out.loops_used.max())]


def test_ranks_that_halt_apart_meet_in_every_loop(two: Workers) -> None:
    assert two(_halting_apart) == [[4, 1], [4, 4]]


def _compiled(changes: dict[str, Any]) -> Any:
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor")
    whole = torch.compile
    torch.compile = partial(whole, backend="aot_eager")
    torch._dynamo.reset()
    counters.clear()
    try:
        how = {"compiled": True, "checkpointed": True}
        return together({"expert": 2}, steps=3, how=how, **changes)
    finally:
        torch.compile = whole


@pytest.mark.parametrize("halted", ["continue", "freeze"])
def test_spread_experts_may_be_compiled_around_and_computed_again(
    two: Workers, halted: str
) -> None:
    expected = alone(steps=3, halted=halted)
    for losses in two(_compiled, {"halted": halted}):
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)


DEPTHS = [1, 2, 5, 3]  # the second rank's rows go on when those of the first have ended


def _steps_of_rows(
    degrees: dict[str, int], how: dict[str, Any], backprop_loops: int | None, readout: str
) -> tuple[list[float], list[float]]:
    """Losses of three steps whose rows have depths of their own, and the loads that were seen."""
    model = network(readout=readout)
    spread = spread_out(model, degrees, **how) if degrees else Spread()
    own = ROWS // spread.data_world
    rows = range(spread.data_rank * own, (spread.data_rank + 1) * own)
    optimizer, losses = optimiser(model), []
    for step in range(3):
        ids, targets = batch(step)
        out = spread.caller(model)(
            ids[rows.start : rows.stop],
            [DEPTHS[row] for row in rows],
            min_loops=max(DEPTHS),
            backprop_loops=backprop_loops,
            logits_to_keep=0,
            return_output=True,
        )
        wanted = targets[rows.start : rows.stop].flatten()
        cost = spread.head_loss(out.features.flatten(0, 1), model.head.weight, wanted)
        loss = cost.total * (cost.n_targets / (targets != -100).sum())
        (loss * spread.data_world).backward()
        spread.clip(model, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        load = model.update_router_bias(0.001)
        losses.append(float(spread.sum(loss.detach().double())))
    return losses, load.tolist()


@pytest.mark.parametrize("how", [{}, {"checkpointed": True}], ids=["plain", "computed again"])
@pytest.mark.parametrize("backprop_loops", [None, 2])
@pytest.mark.parametrize(
    ("degrees", "readout"), [({"expert": 2}, "act"), ({"expert": 2}, "last"), ({"shard": 2}, "act")]
)
def test_rows_of_unequal_depths_keep_no_rank_waiting(
    two: Workers, degrees: dict[str, int], readout: str, backprop_loops: int | None, how: Any
) -> None:
    """A rank whose rows have ended takes part in the other's loops, there and back."""
    losses, load = _steps_of_rows({}, how, backprop_loops, readout)
    for found, seen in two(_steps_of_rows, degrees, how, backprop_loops, readout):
        torch.testing.assert_close(found, losses, rtol=0, atol=1e-5)
        assert sum(seen) == sum(load)


def test_one_process_never_loads_this() -> None:
    """A run of one process must not wait a second for FSDP."""
    code = (
        "import sys, open_mythos.train.trainer; sys.exit('torch.distributed.fsdp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
