"""Ouro's objective against its plain definition, one position and one loop at a time."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import IGNORE
from open_mythos.errors import ConfigError, InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.apply import apply
from open_mythos.train.build import build_model
from open_mythos.train.depth import DepthConfig
from open_mythos.train.gate import exit_probabilities
from open_mythos.train.objective import objective, sample_reads
from open_mythos.train.presets import recipe as named_recipe
from open_mythos.train.recipe import ObjectiveConfig, Recipe


@pytest.fixture
def network(tiny_config: Any, randomised: Any) -> OpenMythos:
    """A float64 network with a gate that learns, in training mode."""
    model: OpenMythos = OpenMythos(tiny_config(readout="last"))
    model.recurrent.train_gate()
    randomised(model.double().train())
    return model


def by_definition(
    model: OpenMythos, ids: Tensor, targets: Tensor, loops: list[int], beta: float, z: float
) -> Tensor:
    """sum_t p(t) (L_t + z lse_t^2) - beta H(p): a whole pass for every loop and row."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, n_loops in enumerate(loops):
        passes = [model(ids[row : row + 1], t + 1, return_output=True) for t in range(n_loops)]
        gate = passes[-1].halting[:, 0]
        for s, target in enumerate(targets[row].tolist()):
            if target == IGNORE:
                continue
            count += 1
            left = torch.ones((), dtype=torch.float64)
            for t in range(n_loops):
                p = left if t == n_loops - 1 else left * gate[t, s]
                left = left * (1 - gate[t, s])
                logits = passes[t].logits[0, s]
                cost = F.cross_entropy(logits, torch.tensor(target)) + z * logits.logsumexp(0) ** 2
                total = total + p * cost + beta * p * p.log()
    return total / count


@pytest.mark.parametrize("z", [0.0, 0.2])
@pytest.mark.parametrize("loops", [[4, 4, 4], [4, 1, 3]], ids=["one depth", "per row"])
def test_the_objective_and_its_gradient(network: OpenMythos, loops: list[int], z: float) -> None:
    ids, targets = torch.randint(37, (3, 5)), torch.randint(37, (3, 5))
    targets[0, 1:3] = targets[2, 4] = IGNORE
    config = ObjectiveConfig(gate_entropy=0.07, z_loss=z)
    asked: Any = loops if len(set(loops)) > 1 else loops[0]
    out = network(
        ids, asked, read_loops=sample_reads(config, 4, None, 0, 0), logits_to_keep=0,
        return_output=True,
    )  # fmt: skip
    terms = objective(out, targets, network.head.weight, config)
    want = by_definition(network, ids, targets, loops, 0.07, z)
    torch.testing.assert_close(terms.total, want, rtol=1e-9, atol=1e-9)
    assert set(terms.parts) == {"cross_entropy", "gate_entropy"} | ({"z_loss"} if z else set())
    whole = sum(float(part) for part in terms.parts.values())
    assert float(terms.total.detach()) == pytest.approx(whole, rel=1e-9)
    named = dict(network.named_parameters())
    ours = torch.autograd.grad(terms.total, list(named.values()))
    theirs = torch.autograd.grad(want, list(named.values()))
    assert named["recurrent.act.halt.weight"].requires_grad
    for name, a, b in zip(named, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: n + m)
    assert float(ours[list(named).index("recurrent.act.halt.weight")].abs().max()) > 1e-6


def test_loops_that_are_computed_again_give_the_same(network: OpenMythos) -> None:
    ids, found = torch.randint(37, (2, 4)), []
    for recomputed in (False, True):
        model = apply(network, checkpointed=True) if recomputed else network
        out = model(ids, 3, read_loops=(1, 2), logits_to_keep=0, return_output=True)
        total = objective(out, ids, model.head.weight, ObjectiveConfig(gate_entropy=0.1)).total
        found.append(torch.autograd.grad(total, list(model.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_exit_probabilities_sum_to_one_where_a_row_ends(network: OpenMythos) -> None:
    out = network(torch.randint(37, (3, 5)), [5, 2, 1], return_output=True)
    p = exit_probabilities(out)
    torch.testing.assert_close(p.sum(0), torch.ones(3, 5, dtype=torch.float64))
    assert p.min() >= 0
    assert p[2:, 1].eq(0).all()
    assert p[0, 2].eq(1).all()


def test_a_sure_gate_costs_no_infinity(network: OpenMythos) -> None:
    with torch.no_grad():
        network.recurrent.act.halt.bias.fill_(200.0)
    ids = torch.randint(37, (2, 3))
    out = network(ids, 3, read_loops=(1, 2), return_output=True)
    objective(out, ids, network.head.weight, ObjectiveConfig(gate_entropy=0.1)).total.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_the_gate_learns_where_the_answer_is_cheap(network: OpenMythos) -> None:
    """With all weights but its own still, it learns to leave at less than what loops cost."""
    ids, targets = torch.randint(37, (4, 6)), torch.randint(37, (4, 6))
    config = ObjectiveConfig(gate_entropy=0.01)
    optimizer = torch.optim.Adam(network.recurrent.act.parameters(), lr=0.3)
    costs = []
    for _ in range(25):
        out = network(ids, 5, read_loops=(1, 2, 3, 4), logits_to_keep=0, return_output=True)
        optimizer.zero_grad()
        terms = objective(out, targets, network.head.weight, config)
        terms.total.backward()
        optimizer.step()
        costs.append(float(terms.parts["cross_entropy"]))
    logits = [network.head(x) for x in (*out.loop_features, out.features)]
    each = [float(F.cross_entropy(x.flatten(0, 1), targets.flatten()).detach()) for x in logits]
    assert costs[-1] < costs[0] - 0.05
    assert costs[-1] < sum(each) / len(each)


def test_what_the_objective_needs(network: OpenMythos, tiny_config: Any) -> None:
    ids, config = torch.randint(37, (2, 3)), ObjectiveConfig(gate_entropy=0.1)
    out = network(ids, 4, read_loops=(2,), return_output=True)
    with pytest.raises(InputError, match=r"of 4 loops 1 were read .*read_loops=range\(1, 4\)"):
        objective(out, ids, network.head.weight, config)
    plain = OpenMythos(tiny_config(readout="last")).train()
    with pytest.raises(InputError, match="did not ask its gate"):
        objective(plain(ids, 1, return_output=True), ids, plain.head.weight, config)


def test_the_gate_is_asked_in_training_alone(network: OpenMythos) -> None:
    ids = torch.randint(37, (2, 3))
    assert network(ids, 3, return_output=True).halting.shape == (3, 2, 3)
    assert network.eval()(ids, 3, return_output=True).halting is None


def test_all_loops_are_read() -> None:
    assert sample_reads(ObjectiveConfig(gate_entropy=0.1), 5, None, 3, 7) == (1, 2, 3, 4)
    assert sample_reads(ObjectiveConfig(gate_entropy=0.1), 1, None, 3, 7) == ()


# -- the recipe ----------------------------------------------------------------------------------


@pytest.fixture
def gated() -> Recipe:
    base = named_recipe("cpu-tiny")
    model = MythosConfig.from_dict({**base.model.to_dict(), "readout": "last"})
    return replace(base, model=model, objective=ObjectiveConfig(gate_entropy=0.05))


def test_a_recipe_with_the_term_trains_its_gate(gated: Recipe) -> None:
    model = build_model(gated)
    assert isinstance(model, OpenMythos)
    assert all(p.requires_grad for p in model.recurrent.act.parameters())
    still = build_model(replace(gated, objective=ObjectiveConfig()))
    assert isinstance(still, OpenMythos)
    assert not any(p.requires_grad for p in still.recurrent.act.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"readout": "act"}, r"gate_entropy is 0\.05 but model\.readout is 'act'"),
        ({"objective": ObjectiveConfig(gate_entropy=0.1, loop_loss=0.5)}, r"loop_loss is 0\.5"),
        ({"depth": DepthConfig(backprop_loops=2)}, r"backprop_loops is 2"),
    ],
)
def test_what_does_not_go_with_a_gate(gated: Recipe, changes: dict[str, Any], words: str) -> None:
    if "readout" in changes:
        changes = {"model": MythosConfig.from_dict({**gated.model.to_dict(), **changes})}
    with pytest.raises(ConfigError, match=words):
        replace(gated, **changes)
    with pytest.raises(ConfigError, match=r"objective\.gate_entropy is -1"):
        ObjectiveConfig(gate_entropy=-1)
    assert math.isfinite(gated.objective.gate_entropy)
