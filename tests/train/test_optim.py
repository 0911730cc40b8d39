import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from open_mythos.model.mythos import OpenMythos
from open_mythos.train.muon import Cut
from open_mythos.train.optim import (
    MuonAdamW,
    build_optimizer,
    clip_gradients,
    embedding_names,
    fused_cuts,
    orthogonal,
    parameter_groups,
    role,
    set_learning_rate,
    skip_unless,
)
from open_mythos.train.recipe import OptimConfig, Recipe
from open_mythos.train.state import load_optimizer_tensors, optimizer_tensors


@pytest.fixture
def model(tiny: Recipe) -> OpenMythos:
    return OpenMythos(tiny.model)


def by_role(model: nn.Module, config: OptimConfig) -> dict[str, dict[str, float]]:
    """Role -> parameter name -> its weight decay."""
    found: dict[str, dict[str, float]] = {}
    for group in parameter_groups(model, config):
        members = {name: group["weight_decay"] for name, _ in group["params"]}
        found.setdefault(group["role"], {}).update(members)
    return found


def turned_names(model: nn.Module) -> set[str]:
    """What Muon moves."""
    groups = parameter_groups(model, OptimConfig(kind="muon"))
    return {name for group in groups if "rate" in group for name, _ in group["params"]}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_is_in_exactly_one_group(model: OpenMythos, kind: Any) -> None:
    groups = parameter_groups(model, OptimConfig(kind=kind))
    names = [name for group in groups for name, _ in group["params"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_matrices_are_decayed(model: OpenMythos, kind: Any) -> None:
    groups = by_role(model, OptimConfig(kind=kind, weight_decay=0.3))
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
    assert role("recurrent.injection.mix.weight", torch.ones(2, 4)) == "matrix"
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


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_that_is_to_be_skipped_moves_neither_values_nor_moments_nor_counts(
    tiny: Recipe, model: OpenMythos, kind: Any
) -> None:
    config = replace(tiny.optim, kind=kind)
    optimizer = build_optimizer(model, config)
    twin = copy.deepcopy(model)
    other = build_optimizer(twin, config)

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


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_flag_is_gone_after_the_step_even_if_it_fails(
    tiny: Recipe, model: OpenMythos, kind: Any
) -> None:
    optimizer = build_optimizer(model, replace(tiny.optim, kind=kind))
    halves = optimizer.halves if isinstance(optimizer, MuonAdamW) else (optimizer,)
    assert len(halves) == (2 if kind == "muon" else 1)
    with skip_unless(optimizer, torch.tensor(False)):
        assert all(hasattr(half, "found_inf") for half in halves)
    assert not any(hasattr(half, "found_inf") for half in halves)
    with pytest.raises(ZeroDivisionError), skip_unless(optimizer, torch.tensor(False)):
        raise ZeroDivisionError
    assert not any(hasattr(half, "found_inf") for half in halves)


# -- Muon beside AdamW -----------------------------------------------------------------------------


def grads(model: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=draw)


@pytest.mark.parametrize("attn_type", ["gqa", "mla"])
def test_muon_moves_the_hidden_maps_and_nothing_else(tiny: Recipe, attn_type: Any) -> None:
    model = OpenMythos(replace(tiny.model, attn_type=attn_type, readout="act"))
    turned = turned_names(model)
    left = {name for name, _ in model.named_parameters()} - turned
    assert all(p.ndim >= 2 for n, p in model.named_parameters() if n in turned)
    ends = {".".join(name.split(".")[-2:]) for name in left if model.get_parameter(name).ndim > 1}
    assert ends == {"embed.weight", "router.weight", "scale.weight", "halt.weight"}
    assert {"recurrent.block.ffn.gate_up", "recurrent.block.ffn.down"} <= turned
    assert "recurrent.block.attn.wo.weight" in turned


def test_a_head_of_its_own_is_left_to_adamw() -> None:
    assert not orthogonal("head.weight", torch.ones(9, 4), "matrix")
    assert not orthogonal("act.halt.weight", torch.ones(1, 4), "matrix")
    assert not orthogonal("embed.weight", torch.ones(9, 4), "embedding")
    assert not orthogonal("recurrent.routers", torch.ones(2, 1, 5, 4), "stack")
    assert orthogonal("core.weight", torch.ones(9, 4), "matrix")


def test_cuts_are_where_the_parts_of_fused_weights_meet(tiny: Recipe) -> None:
    for attn_type in ("gqa", "mla"):
        model = OpenMythos(replace(tiny.model, attn_type=attn_type))  # type: ignore[arg-type]
        cuts = fused_cuts(model)
        assert all(
            sum(cut.widths) == model.get_parameter(name).shape[cut.dim]
            for name, cut in cuts.items()
        )
        attention: Any = model.recurrent.block.attn
        first = attention.wq if attn_type == "gqa" else attention.q_down
        fused = "wqkv" if attn_type == "gqa" else "down"
        found = cuts[f"recurrent.block.attn.{fused}.weight"]
        whole = model.get_parameter(f"recurrent.block.attn.{fused}.weight")
        assert torch.equal(whole.split(found.widths, dim=found.dim)[0], first.weight)
        stack = model.get_parameter("recurrent.block.ffn.gate_up")
        assert cuts["recurrent.block.ffn.gate_up"] == Cut(-1, (tiny.model.expert_dim,) * 2)
        gate, up = stack.split(cuts["recurrent.block.ffn.gate_up"].widths, dim=-1)
        ffn: Any = model.recurrent.block.ffn
        assert torch.equal(gate[1].t(), ffn.routed_experts[1].gate.weight)
        assert torch.equal(up[1].t(), ffn.routed_experts[1].up.weight)


def test_what_muon_leaves_goes_where_adamw_takes_it(tiny: Recipe, model: OpenMythos) -> None:
    twin = copy.deepcopy(model)
    mixed = build_optimizer(model, replace(tiny.optim, kind="muon"))
    plain = build_optimizer(twin, tiny.optim)
    for step in range(3):
        for half, network in ((mixed, model), (plain, twin)):
            grads(network, step)
            set_learning_rate(half, 0.01)
            half.step()
    turned = turned_names(model)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q) == (name not in turned), name


def test_each_role_has_its_share_of_the_rate(model: OpenMythos) -> None:
    config = OptimConfig(kind="muon", lr=0.01, muon_lr=0.04)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.005)
    turned = turned_names(model)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.02 if turned & set(group["param_names"]) else 0.005)
    same = build_optimizer(model, replace(config, muon_lr=None))
    set_learning_rate(same, 0.005)
    assert {group["lr"] for group in same.param_groups} == {0.005}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    set_learning_rate(optimizer, 0.0)
    grads(model, 1)
    optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_both_halves_are_saved_by_name_and_put_back(tiny: Recipe, model: OpenMythos) -> None:
    config = replace(tiny.optim, kind="muon")
    optimizer = build_optimizer(model, config)
    for step in range(3):
        grads(model, step)
        optimizer.step()
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}
    held = {k.partition("/")[2]: k.partition("/")[0] for k in saved}
    assert held.keys() == {name for name, _ in model.named_parameters()}
    assert {n for n, k in held.items() if k == "momentum_buffer"} == turned_names(model)
    twin = copy.deepcopy(model)
    other = build_optimizer(twin, config)
    load_optimizer_tensors(other, {k: v.clone() for k, v in saved.items()})
    for step in range(3, 6):
        for half, network in ((optimizer, model), (other, twin)):
            grads(network, step)
            half.step()
    one, two = snapshot(model, optimizer), snapshot(twin, other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(
        one["momentum_buffer/recurrent.block.ffn.down"],
        saved["momentum_buffer/recurrent.block.ffn.down"],
    )
