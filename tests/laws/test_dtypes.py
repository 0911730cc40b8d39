"""Half precision is finite, near float64, and consistent with its own cache."""

import copy
from collections.abc import Callable

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
def test_forward_backward_and_cache_are_finite(
    dtype: torch.dtype, any_config: MythosConfig, build: Callable[..., OpenMythos]
) -> None:
    model = build(any_config).to(dtype).train()
    assert model.recurrent.block.ffn.router_bias.dtype == torch.float32
    ids = torch.randint(37, (2, 6))
    out = model(ids, 3, return_output=True)
    assert out.logits.dtype == dtype
    assert out.logits.isfinite().all()
    out.logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    with torch.no_grad():
        for cache in ({}, model.new_cache(2, 6)):
            parts = [model(ids[:, :4], 3, cache), model(ids[:, 4:], 3, cache)]
            assert torch.cat(parts, dim=1).isfinite().all()
    if out.halting_weights is not None and any_config.readout == "act":
        total = out.halting_weights.double().sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_aligned_widths_go_through_the_grouped_matmul_and_stay_near(
    dtype: torch.dtype, attn_type: str, build: Callable[..., OpenMythos]
) -> None:
    """With every expert on, no rounding can pick another one."""
    model = build(
        attn_type=attn_type, expert_dim=8, n_experts=3, n_experts_per_tok=3, readout="last"
    )
    rounded = copy.deepcopy(model).to(dtype)
    exact = copy.deepcopy(rounded).double()
    ids = torch.randint(37, (2, 6))
    want, got = exact(ids, 2), rounded(ids, 2).double()
    error = (got - want).norm() / want.norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_runs_forward_backward_and_cached(
    dtype: torch.dtype, attn_type: str, halted: str, build: Callable[..., OpenMythos]
) -> None:
    model = build(attn_type=attn_type, halted=halted).float().train()
    ids = torch.randint(37, (2, 6))
    with torch.autocast("cpu", dtype=dtype):
        logits = model(ids, 3)
        cached = model(ids, 3, {})
    torch.testing.assert_close(logits, cached, rtol=0.1, atol=0.1)
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@torch.no_grad()
def test_the_precise_parts_of_a_bfloat16_model_stay_precise(
    build: Callable[..., OpenMythos],
) -> None:
    model = build().to(torch.bfloat16)
    assert model.recurrent.injection.get_A().dtype == torch.float32
    assert model.freqs_cis.dtype == torch.complex64
    out = model(torch.randint(37, (1, 4)), 2, return_output=True)
    assert out.halting_weights.dtype == torch.float32
    assert out.state_rms.dtype == torch.float32
    wide = model.to(torch.float32)
    assert wide.recurrent.block.ffn.router_bias.dtype == torch.float32
