"""The mixture-of-experts layer against a definition by tokens and experts."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn import functional as F

from open_mythos.config.mythos import MythosConfig
from open_mythos.nn.moe.layer import MoEFFN, Stacks
from open_mythos.ops.routing import route


def by_definition(ffn: MoEFFN, x: torch.Tensor) -> torch.Tensor:
    """Through the published names: router, router_bias, topk, routed_experts, shared_experts."""
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for s in range(x.shape[1]):
            token = x[b, s]
            scores = (ffn.router.weight @ token).softmax(-1)
            ranked = sorted(
                range(len(scores)),
                key=lambda e: -(ffn.router.weight[e] @ token + ffn.router_bias[e]).item(),
            )
            picked = ranked[: ffn.topk]
            total = sum(scores[e] for e in picked)
            for e in picked:
                out[b, s] += scores[e] / total * ffn.routed_experts[e](token)
            for shared in ffn.shared_experts:
                out[b, s] += shared(token)
    return out


@pytest.fixture
def ffn(tiny_config: Callable[..., MythosConfig], randomised: Any) -> MoEFFN:
    layer: MoEFFN = randomised(MoEFFN(tiny_config(n_shared_experts=2)).double())
    return layer


@pytest.mark.parametrize("backend", ["auto", "loop", "dense", "reference"])
@given(shared=st.integers(0, 2), k=st.integers(1, 5), length=st.integers(1, 4))
def test_equals_the_definition(
    backend: Any,
    shared: int,
    k: int,
    length: int,
    tiny_config: Callable[..., MythosConfig],
    randomised: Any,
) -> None:
    cfg = tiny_config(n_shared_experts=shared, n_experts_per_tok=k)
    layer = randomised(MoEFFN(cfg).double())
    layer.experts_backend = backend
    x = torch.randn(2, length, cfg.dim, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_definition(layer, x), rtol=1e-9, atol=1e-10)


def test_permuting_experts_with_the_router_changes_nothing(ffn: MoEFFN) -> None:
    x = torch.randn(2, 5, ffn.cfg.dim, dtype=torch.float64)
    twin, order = copy.deepcopy(ffn), torch.randperm(ffn.n_experts)
    with torch.no_grad():
        twin.router.weight.copy_(ffn.router.weight[order])
        twin.router_bias.copy_(ffn.router_bias[order])
        twin.gate_up.copy_(ffn.gate_up[order])
        twin.down.copy_(ffn.down[order])
    y, load = ffn.routed(x)
    z, permuted = twin.routed(x)
    torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-12)
    assert torch.equal(load[order], permuted)


def test_published_names_and_shapes(ffn: MoEFFN) -> None:
    cfg = ffn.cfg
    assert ffn.topk == cfg.n_experts_per_tok
    assert len(ffn.routed_experts) == cfg.n_experts == len(list(ffn.routed_experts))
    assert len(ffn.shared_experts) == cfg.n_shared_experts == len(list(ffn.shared_experts))
    assert ffn.routed_experts[-1].gate.weight.shape == (cfg.expert_dim, cfg.dim)
    width = cfg.expert_dim * cfg.n_experts_per_tok
    assert ffn.shared_experts[0].down.weight.shape == (cfg.dim, width)
    with pytest.raises(IndexError):
        ffn.routed_experts[cfg.n_experts]
    token = torch.randn(cfg.dim, dtype=torch.float64)
    expert = ffn.routed_experts[1]
    want = F.silu(token @ expert.gate.weight.T) * (token @ expert.up.weight.T)
    torch.testing.assert_close(expert(token), want @ expert.down.weight.T)


def test_writing_through_a_view_changes_one_expert(ffn: MoEFFN) -> None:
    before = ffn.gate_up.detach().clone()
    with torch.no_grad():
        ffn.routed_experts[2].gate.weight.zero_()
    changed = (before != ffn.gate_up).flatten(1).any(dim=1)
    assert changed.tolist() == [False, False, True, False, False]


@given(data=st.data())
def test_inactive_positions_give_zeros_and_no_load(
    data: st.DataObject, tiny_config: Callable[..., MythosConfig], randomised: Any
) -> None:
    flags = data.draw(st.lists(st.booleans(), min_size=6, max_size=6))
    ffn = randomised(MoEFFN(tiny_config()).double())
    active = torch.tensor(flags).view(2, 3)
    x = torch.randn(2, 3, ffn.cfg.dim, dtype=torch.float64)
    full, _ = ffn.routed(x)
    some, load = ffn.routed(x, active)
    torch.testing.assert_close(some[active], full[active], rtol=1e-10, atol=1e-12)
    assert some[~active].eq(0).all()
    ids = (
        route(ffn.router(x.flatten(0, -2)), ffn.router_bias, ffn.topk)
        .ids.view(2, 3, -1)[active]
        .flatten()
        .tolist()
    )
    assert load.tolist() == [ids.count(e) for e in range(ffn.n_experts)]
    assert load.sum().item() == sum(flags) * ffn.topk


def test_the_form_without_data_dependent_shapes_is_the_same_function(
    ffn: MoEFFN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tracing and training on an accelerator run instead of skipping rows."""
    active = torch.rand(2, 5) < 0.5
    x = torch.randn(2, 5, ffn.cfg.dim, dtype=torch.float64, requires_grad=True)
    some, load = ffn.routed(x, active)
    monkeypatch.setattr("open_mythos.nn.moe.layer.traced", lambda: True)
    every, same = ffn.routed(x, active)
    torch.testing.assert_close(every, some, rtol=1e-10, atol=1e-12)
    assert torch.equal(same, load)
    up, at = torch.randn_like(some), [x, *ffn.parameters()]
    for a, b in zip(
        torch.autograd.grad((some * up).sum(), at),
        torch.autograd.grad((every * up).sum(), at),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("casts", [["bfloat16"], ["float16"], ["bfloat16", "float32"], ["half"]])
def test_the_bias_stays_float32_with_its_exact_values(ffn: MoEFFN, casts: list[str]) -> None:
    ffn.float()
    want = ffn.router_bias.clone() + 1 / 3
    with torch.no_grad():
        ffn.router_bias.copy_(want)
    for cast in casts:
        ffn = ffn.half() if cast == "half" else ffn.to(getattr(torch, cast))
    assert ffn.router_bias.dtype == torch.float32
    assert torch.equal(ffn.router_bias, want)
    assert "router_bias" in dict(ffn.named_buffers())
    assert "router_bias" in ffn.state_dict()
    assert ffn.router.weight.dtype == (
        torch.float32 if casts[-1] == "float32" else ffn.gate_up.dtype
    )


def test_steps_of_a_thousandth_survive_in_a_bfloat16_model(ffn: MoEFFN) -> None:
    ffn.to(torch.bfloat16)
    with torch.no_grad():
        ffn.router_bias.fill_(1.0)
    for _ in range(10):
        ffn.load += torch.tensor([10, 0, 0, 0, 0])
        ffn.update_bias(0.001)
    want = torch.tensor([0.99] + [1.01] * 4)
    torch.testing.assert_close(ffn.router_bias, want, rtol=0, atol=1e-5)


def test_update_returns_the_load_and_forgets_it(ffn: MoEFFN) -> None:
    ffn.load += torch.tensor([5, 0, 1, 2, 2])
    before = ffn.router_bias.clone()
    assert ffn.update_bias(0.1).tolist() == [5, 0, 1, 2, 2]
    moved = (ffn.router_bias - before).double()
    torch.testing.assert_close(
        moved, torch.tensor([-0.1, 0.1, 0.1, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-6
    )
    after = ffn.router_bias.clone()
    assert ffn.update_bias(0.1).tolist() == [0] * 5
    assert torch.equal(ffn.router_bias, after)


def test_load_is_not_saved_and_the_bias_is(ffn: MoEFFN) -> None:
    assert "router_bias" in ffn.state_dict()
    assert "load" not in ffn.state_dict()


def test_every_weight_gets_a_gradient_even_from_one_token(ffn: MoEFFN) -> None:
    ffn(torch.randn(1, 1, ffn.cfg.dim, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in ffn.parameters())


# -- another copy of the experts -------------------------------------------------------------------


@torch.no_grad()
def test_experts_by_output_are_the_same_and_lie_otherwise(ffn: MoEFFN) -> None:
    stacks = Stacks(ffn.gate_up, ffn.down)
    laid = stacks.by_output()
    for old, new in zip(stacks, laid, strict=True):
        assert torch.equal(old, new)
        assert new.mT.is_contiguous()
        assert new.data_ptr() != old.data_ptr()
    x = torch.randn(2, 3, ffn.cfg.dim, dtype=torch.float64)
    torch.testing.assert_close(ffn.routed(x, stacks=laid)[0], by_definition(ffn, x))
