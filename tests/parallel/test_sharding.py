"""What FSDP2 holds, gathers and reduces: counted on the collectives themselves."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.gradients import local_part
from open_mythos.parallel.sharding import gathered, release
from open_mythos.parallel.spread import Spread
from open_mythos.train.precision import Working
from tests.parallel.twin import batch, learn, network, optimiser, spread_out
from tests.parallel.workers import Workers


SHARDED = {"shard": 2}


class Collectives(TorchDispatchMode):
    """The collectives that this rank enters, by the names of their ops."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))

    def count(self, word: str) -> int:
        return sum(word in name for name in self.names)


def _pass(model: OpenMythos, loops: int) -> Collectives:
    ids, targets = batch(0)
    with Collectives() as seen:
        out = model(ids, loops, logits_to_keep=0, return_output=True)
        logits = out.features @ model.head.weight.t()
        logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).mean().backward()
    return seen


def _units() -> list[Any]:
    """Collectives of passes of two depths, with two dense blocks."""
    model = network()
    spread_out(model, SHARDED)
    said = []
    for loops in (1, 5):
        seen = _pass(model, loops)
        said.append((seen.count("allgather"), seen.count("reduce_scatter"), len(seen.names)))
    return said


def test_a_pass_gathers_and_reduces_the_loop_once_whatever_its_depth(two: Workers) -> None:
    """Dense blocks twice (there and back), the loop once, embedding, head and norm once."""
    for few, many in two(_units):
        assert few == many == (2 * 2 + 1 + 1, 4, few[2])
        assert few[2] == 6 + 4


def _held() -> Any:
    model, whole = network(), network()
    everything = sum(p.numel() for p in whole.parameters())
    spread_out(model, SHARDED)
    here = sum(local_part(p).numel() for p in model.parameters())
    _pass(model, 2)
    grads = sum(local_part(p.grad).numel() for p in model.parameters() if p.grad is not None)
    frozen = sum(local_part(p).numel() for p in model.parameters() if not p.requires_grad)
    kinds = {type(p) for p in model.parameters()}
    return everything, here, grads, frozen, kinds == {DTensor}


def test_weights_and_gradients_are_held_in_parts(two: Workers) -> None:
    answers = two(_held)
    everything = answers[0][0]
    assert sum(here for _, here, *_ in answers) == everything
    for _, here, grads, frozen, sharded in answers:
        assert 0.4 < here / everything < 0.6  # rows that do not divide go to the first rank
        assert grads == here - frozen
        assert sharded


def _sixteen_bits() -> tuple[Any, ...]:
    model, dtype = network(), torch.bfloat16
    spread = spread_out(model, SHARDED, dtype=dtype)
    kinds = {p.dtype for p in model.parameters()}
    ids, _ = batch(0)
    out = model(ids, 2, logits_to_keep=0, return_output=True)
    width, head = out.features.dtype, model.head.weight.dtype
    out.features.float().square().mean().backward()
    grads = {p.grad.dtype for p in model.parameters() if p.grad is not None}
    model.zero_grad()
    losses = learn(model, spread, optimiser(model), range(5))
    return kinds == grads == {torch.float32}, width == head == dtype, losses


def test_masters_stay_wide_while_passes_are_narrow(two: Workers) -> None:
    answers = two(_sixteen_bits)
    master = network()
    narrow = Working(master, "bf16")
    optimizer, expected = optimiser(master), []
    for step in range(5):
        ids, targets = batch(step)
        cost = _loss(narrow.model, ids, targets)
        cost.backward()
        narrow.collect()
        torch.nn.utils.clip_grad_norm_(master.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        narrow.refresh()
        narrow.model.update_router_bias(0.001)
        expected.append(float(cost.detach()))
    for wide, sixteen, losses in answers:
        assert wide
        assert sixteen
        assert losses == answers[0][2]
        torch.testing.assert_close(losses, expected, atol=0.02, rtol=0)


def _loss(model: Any, ids: Tensor, targets: Tensor) -> Tensor:
    out = model(ids, 3, logits_to_keep=0, return_output=True)
    scores = out.features.float() @ model.head.weight.float().t()
    lse = scores.logsumexp(-1)[targets != -100]
    ce = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
    return ce + 1e-3 * lse.square().mean() + 0.01 * out.ponder_cost


def _evaluate() -> Any:
    """One rank alone looks at the gathered network, in ways that no hook knows of."""
    model = network()
    spread = spread_out(model, SHARDED)
    learn(model, spread, optimiser(model), range(2))
    said: Any = None
    with spread.whole(model):
        if dist.get_rank() == 0:
            plain = all(not isinstance(p, DTensor) for p in model.parameters())
            prompt = torch.arange(6).view(2, 3)
            static = model.generate(prompt, 5, n_loops=2, temperature=0.0, static=True)
            with torch.no_grad():
                logits = model.eval()(prompt, 2)
            said = plain, static.tolist(), logits.flatten().tolist()
    model.train()
    shut = all(isinstance(p, DTensor) for p in model.parameters())
    again = learn(model, spread, optimiser(model), range(2, 4))
    return said, shut, again


def test_a_gathered_network_serves_every_method_even_on_one_rank(two: Workers) -> None:
    answers = two(_evaluate)
    model = network()
    learn(model, Spread(), optimiser(model), range(2))
    prompt = torch.arange(6).view(2, 3)
    expected = model.generate(prompt, 5, n_loops=2, temperature=0.0).tolist()
    with torch.no_grad():
        logits = model.eval()(prompt, 2).flatten().tolist()
    plain, tokens, seen = answers[0][0]
    assert plain
    assert tokens == expected
    torch.testing.assert_close(seen, logits, atol=1e-4, rtol=0)
    after = learn(model.train(), Spread(), optimiser(model), range(2, 4))
    for _, shut, again in answers:
        assert shut
        torch.testing.assert_close(again, after, atol=1e-5, rtol=0)


def _left() -> Any:
    model = network()
    spread_out(model, SHARDED)
    with torch.no_grad():
        model(batch(0)[0], 1)
    before = isinstance(model.embed.weight, DTensor)
    release(model)
    units = [m for m in model.modules() if isinstance(m, FSDPModule)]
    with gathered(model):
        within = isinstance(model.coda[0].attn.wo.weight, DTensor)
    return before, isinstance(model.embed.weight, DTensor), within, len(units)


def test_a_pass_without_a_way_back_leaves_weights_that_can_be_let_go(two: Workers) -> None:
    assert two(_left) == [(False, True, False, 4)] * 2


def _depths(passes: int, how: dict[str, Any]) -> list[float]:
    model = network(readout="last")
    spread = spread_out(model, how)
    depth = partial(_own_depth, spread.data_rank)
    return learn(model, spread, optimiser(model), range(6), depth=depth, passes=passes)


def _own_depth(rank: int, step: int, index: int) -> int:
    return 1 + (step + 3 * rank) % 4


def test_ranks_may_run_different_depths_between_the_same_collectives(two: Workers) -> None:
    model = network(readout="last")
    expected = learn(
        model,
        Spread(),
        optimiser(model),
        range(6),
        depth=lambda step, index: _own_depth(index, step, 0),
        passes=2,
    )
    for degrees in (SHARDED, {}):
        for losses in two(_depths, 1, degrees):
            torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
