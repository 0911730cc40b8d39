"""What ranks do together in a step, against one process that does it alone."""

from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from open_mythos.parallel.division import canonical
from open_mythos.parallel.spread import Spread
from open_mythos.parallel.team import Team
from open_mythos.train.optim import build_optimizer
from open_mythos.train.recipe import OptimConfig
from tests.parallel.twin import batch, learn, network, optimiser, spread_out
from tests.parallel.workers import Workers


LAYOUTS: list[dict[str, int]] = [
    {},
    {"shard": 2},
    {"expert": 2},
    {"shard": 2, "expert": 2},
    {"tensor": 2},
]


def _norms(degrees: dict[str, int]) -> tuple[float, float]:
    """The norm of a step's gradients, and what is left of it after clipping to a tenth."""
    model = network()
    spread = spread_out(model, degrees) if degrees is not None else Spread()
    _slope(model, spread)
    norm = spread.clip(model, 0.0)
    spread.clip(model, float(norm) / 10)
    return float(norm), float(spread.clip(model, 0.0))


def _slope(model: Any, spread: Spread) -> None:
    ids, _ = batch(0)
    own = len(ids) // spread.data_world
    rows = ids[spread.data_rank * own :][:own]
    spread.caller(model)(rows, 2).square().mean().backward()


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_the_norm_counts_every_gradient_once(two: Workers, degrees: dict[str, int]) -> None:
    model = network()
    _slope(model, Spread())
    whole = float(Spread().clip(model, 0.0))
    for norm, clipped in two(_norms, degrees):
        assert norm == pytest.approx(whole, rel=1e-5)
        assert clipped == pytest.approx(whole / 10, rel=1e-5)


def _roles(degrees: dict[str, int]) -> tuple[Any, ...]:
    model = network()
    team = spread_out(model, degrees)
    assert isinstance(team, Team)
    owned = [team.owns(name) for name, _ in model.named_parameters()]
    numbers = team.sum(torch.tensor([1.0 + team.data_rank]))
    caller = team.caller(model)
    assert team.independent
    return all(owned), any(owned), float(numbers), caller is model, team.ddp is None


def test_replicas_count_once_and_shards_each(two: Workers) -> None:
    first, second = two(_roles, {})
    assert first == (True, True, 3.0, False, False)
    assert second == (False, False, 3.0, False, False)
    assert two(_roles, {"shard": 2}) == [(True, True, 3.0, True, True)] * 2


def _accumulated(degrees: dict[str, int]) -> dict[str, tuple[bool, float]]:
    """Whether a gradient is dealt out, and its squared norm, after two passes.

    The last of the passes brings them home.
    """
    model = network()
    spread = spread_out(model, degrees)
    own = batch(3)[0].chunk(spread.data_world)[spread.data_rank]
    for index, rows in enumerate(own.chunk(2)):
        with spread.passing(last=index == 1):
            out = spread.caller(model)(rows, 2, return_output=True)
            out.features.square().mean().backward()
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad
            whole = grad.full_tensor() if isinstance(grad, DTensor) else grad
            dealt = canonical(name) in spread.divisions
            found[canonical(name)] = dealt, float(whole.norm().square())
    return found


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_passes_add_up_before_ranks_meet(two: Workers, degrees: dict[str, int]) -> None:
    model = network()
    for row in batch(3)[0]:
        out = model(row.unsqueeze(0), 2, return_output=True)
        (out.features.square().mean() / 2).backward()
    answers = two(_accumulated, degrees)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        (dealt, square), (_, other) = (answer[name] for answer in answers)
        found = square + other if dealt else square
        assert found == pytest.approx(float(parameter.grad.norm().square()), rel=1e-4, abs=1e-10)


def _whole() -> bool:
    model = network()
    team = spread_out(model, {})
    with team.whole(model):
        return bool(model.generate(torch.zeros(1, 2, dtype=torch.int64), 1).shape[1] == 3)


def test_a_replica_is_whole_as_it_is(two: Workers) -> None:
    assert all(two(_whole))


def test_the_twin_learns_what_it_is_told() -> None:
    """The loop that everything here is compared with moves every trained parameter."""
    model, start = network(), network()
    learn(model, Spread(), optimiser(model), range(1))
    pairs = zip(model.named_parameters(), start.parameters(), strict=True)
    assert all(not torch.equal(p, q) for (_, p), q in pairs if p.requires_grad)


MUON = OptimConfig(kind="muon", lr=3e-3, muon_lr=3e-2)


def _muon(degrees: dict[str, int] | None) -> tuple[list[float], list[str]]:
    """Losses, and where the optimizer takes each group's matrices apart."""
    model = network()
    spread = Spread() if degrees is None else spread_out(model, degrees)
    optimizer = build_optimizer(model, MUON)
    cuts = [str(group.get("cut")) for group in optimizer.param_groups]
    return learn(model, spread, optimizer, range(6)), cuts


@pytest.mark.parametrize("degrees", LAYOUTS[:-1], ids=str)  # of divided tensors it knows nothing
def test_muon_turns_whole_matrices_wherever_their_parts_are(
    two: Workers, degrees: dict[str, int]
) -> None:
    expected, cuts = _muon(None)
    for losses, found in two(_muon, degrees):
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-4)  # bfloat16 inside
        assert found == cuts
