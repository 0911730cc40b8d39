import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from open_mythos.model.mythos import OpenMythos
from open_mythos.train.optim import (
    build_optimizer,
    clip_gradients,
    embedding_names,
    parameter_groups,
    role,
    set_learning_rate,
    skip_unless,
)
from open_mythos.train.recipe import OptimConfig, Recipe
from open_mythos.train.state import optimizer_tensors


@pytest.fixture
def model(tiny: Recipe) -> OpenMythos:
    return OpenMythos(tiny.model)


def by_role(model: nn.Module, config: OptimConfig) -> dict[str, dict[str, float]]:
    """Role -> parameter name -> its weight decay."""
    return {
        group["role"]: {name: group["weight_decay"] for name, _ in group["params"]}
        for group in parameter_groups(model, config)
    }


def test_every_parameter_is_in_exactly_one_group(model: OpenMythos) -> None:
    names = [n for group in by_role(model, OptimConfig()).values() for n in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert len(names) == len(set(names))


def test_only_matrices_are_decayed(model: OpenMythos) -> None:
    groups = by_role(model, OptimConfig(weight_decay=0.3))
    injection = {f"recurrent.injection.{n}" for n in ("log_A", "log_dt", "B")}
    assert injection <= groups["vector"].keys()
    tables = {"embed.weight", "recurrent.lora.scale.weight"}
    assert groups["embedding"].keys() == tables
    for name, parameter in model.named_parameters():
        found = next(group[name] for group in groups.values() if name in group)
        free = parameter.ndim < 2 or name in injection or name in tables
        assert found == (0.0 if free else 0.3), name


def test_embeddings_are_decayed_when_asked(model: OpenMythos) -> None:
    config = OptimConfig(weight_decay=0.3, decay_embeddings=True)
    assert set(by_role(model, config)["embedding"].values()) == {0.3}


def test_a_role_is_read_from_name_and_shape() -> None:
    assert role("recurrent.injection.B", torch.ones(2, 2)) == "vector"
    assert role("a.norm.weight", torch.ones(3)) == "vector"
    assert role("a.experts.gate", torch.ones(4, 3, 2)) == "stack"
    assert role("a.wq.weight", torch.ones(3, 2)) == "matrix"
    assert role("a.weight", torch.ones(3, 2), {"a.weight"}) == "embedding"
    assert embedding_names(nn.Embedding(2, 2)) == {"weight"}


def test_frozen_parameters_are_left_out(model: OpenMythos) -> None:
    model.embed.weight.requires_grad_(False)
    assert "embed.weight" not in by_role(model, OptimConfig())["embedding"]


def test_one_step_is_adamw_as_written(model: OpenMythos) -> None:
    config = OptimConfig(lr=0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.3)
    optimizer = build_optimizer(model, config)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    draw = torch.Generator().manual_seed(4)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=draw)
    set_learning_rate(optimizer, 0.002)
    optimizer.step()
    decays = {k: v for group in by_role(model, config).values() for k, v in group.items()}
    for name, p in model.named_parameters():
        assert p.grad is not None
        # After one step both bias-corrected moments are the gradient's own.
        moved = before[name] * (1 - 0.002 * decays[name])
        moved -= 0.002 * p.grad / (p.grad.abs() + 1e-6)
        torch.testing.assert_close(p.detach(), moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e9])
def test_clipping_bounds_the_norm_and_keeps_the_direction(model: OpenMythos, limit: float) -> None:
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    before = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    norm = clip_gradients(model, limit)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(norm) == pytest.approx(float(before.norm()), rel=1e-5)
    scale = min(1.0, limit / float(norm)) if limit else 1.0
    torch.testing.assert_close(after, before * scale, rtol=1e-4, atol=1e-6)


def test_a_parameter_without_gradient_is_no_obstacle(tiny: Recipe, model: OpenMythos) -> None:
    optimizer = build_optimizer(model, replace(tiny.optim))
    model.embed.weight.grad = torch.ones_like(model.embed.weight)
    assert float(clip_gradients(model, 1.0)) > 1
    optimizer.step()


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every number that a step of the optimizer can move."""
    kept = {f"value/{n}": p.detach().clone() for n, p in model.named_parameters()}
    return kept | {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}


def test_a_step_that_is_to_be_skipped_moves_neither_values_nor_moments_nor_counts(
    tiny: Recipe, model: OpenMythos
) -> None:
    optimizer = build_optimizer(model, tiny.optim)
    twin = copy.deepcopy(model)
    other = build_optimizer(twin, tiny.optim)

    def step(finite: bool, value: float | None = None) -> None:
        draw = torch.Generator().manual_seed(11)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            grad = torch.randn(p.shape, generator=draw)
            p.grad = grad if value is None else torch.full_like(p, value)
            q.grad = grad.clone()
        with skip_unless(optimizer, torch.tensor(finite)):
            optimizer.step()
        if finite:
            other.step()

    step(True)
    before = snapshot(model, optimizer)
    assert any(k.startswith("step/") for k in before)
    for value in (math.nan, math.inf, 1.0):
        step(False, value)
        after = snapshot(model, optimizer)
        assert all(torch.equal(after[k], v) for k, v in before.items())
    step(True)
    # The skipped ones left no trace: the optimizer is where one that never saw them is.
    one, two = snapshot(model, optimizer), snapshot(twin, other)
    assert all(torch.equal(one[k], v) for k, v in two.items())
    assert not torch.equal(one["value/embed.weight"], before["value/embed.weight"])


def test_the_flag_is_gone_after_the_step_even_if_it_fails(tiny: Recipe, model: OpenMythos) -> None:
    optimizer = build_optimizer(model, tiny.optim)
    assert optimizer.defaults["fused"]
    with (
        pytest.raises(ZeroDivisionError),
        skip_unless(optimizer, torch.tensor(False)),
    ):
        raise ZeroDivisionError
    assert not hasattr(optimizer, "found_inf")
