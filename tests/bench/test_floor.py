"""Floors against the figures of the planning document, and against the definitions."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from open_mythos.bench.floor import Ceilings, decode_bytes, prefill_flops, train_flops
from open_mythos.bench.sizes import size_r, size_tiny
from open_mythos.config.budget import flops_per_token, parameters
from open_mythos.model.mythos import OpenMythos


@pytest.mark.parametrize(("attn", "gflop"), [("gqa", 1.17), ("mla", 1.23)])
def test_a_training_step_of_config_r_costs_what_the_plan_counted(attn: str, gflop: float) -> None:
    assert train_flops(size_r().config(attn), 8, 1024) == pytest.approx(gflop * 1e9, rel=0.01)


@pytest.mark.parametrize("loops", [1, 3, 8])
def test_training_is_three_forward_passes(loops: int) -> None:
    cfg = size_r().config("mla")
    wanted = 3 * flops_per_token(cfg, loops, 512).total
    assert train_flops(cfg, loops, 512) == pytest.approx(wanted)


def test_a_mean_of_loops_costs_the_mean() -> None:
    cfg = size_r().config("gqa")
    both = train_flops(cfg, 8, 1024) + train_flops(cfg, 9, 1024)
    assert train_flops(cfg, 8.5, 1024) == pytest.approx(both / 2)


@pytest.mark.parametrize(("attn", "cached"), [("gqa", 2 * 4 * 64), ("mla", 256 + 32)])
def test_a_prompt_needs_one_head_and_of_the_last_block_what_is_cached(
    attn: str, cached: int
) -> None:
    cfg = size_r().config(attn)
    budget = flops_per_token(cfg, 8, 100)
    once = budget.head + budget.coda / 2 - 2 * 1024 * cached
    whole = 100 * prefill_flops(cfg, 8, 100)
    assert whole == pytest.approx(100 * (budget.total - once) + once)


def test_a_prompt_without_a_coda_needs_all_but_the_heads() -> None:
    cfg = size_r().config("gqa", coda_layers=0)
    budget = flops_per_token(cfg, 8, 100)
    assert prefill_flops(cfg, 8, 100) == pytest.approx(budget.total - 0.99 * budget.head)


def test_a_prompts_products_are_those_that_are_counted() -> None:
    """By torch's own count, which knows the products, but neither attention nor halting."""
    cfg, loops, length = size_tiny().config("gqa"), 2, 64
    model, ids = OpenMythos(cfg).eval(), torch.randint(cfg.vocab_size, (1, length))
    model.recurrent.block.ffn.experts_backend = "loop"  # type: ignore[assignment]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(ids, loops, model.new_cache(1, length), logits_to_keep=1)
    attention = cfg.n_heads * 2 * cfg.head_dim * (length + 1)
    others = attention * (1 + length * (cfg.prelude_layers + loops))
    others += length * loops * 2 * cfg.dim
    assert counter.get_total_flops() + others == length * prefill_flops(cfg, loops, length)


@pytest.mark.parametrize(
    ("attn", "batch", "megabytes"),
    [("gqa", 1, 390), ("mla", 1, 392), ("gqa", 64, 2679), ("mla", 64, 1988)],
)
def test_decoding_config_r_moves_what_the_plan_counted(
    attn: str, batch: int, megabytes: float
) -> None:
    parts = decode_bytes(size_r().config(attn), batch, 2048, 8)
    assert sum(parts.values()) == pytest.approx(megabytes * 1e6, rel=0.01)


def test_one_row_touches_its_own_experts_and_many_rows_all_of_them() -> None:
    cfg = size_r().config("gqa")
    counted = parameters(cfg)
    one = decode_bytes(cfg, 1, 1, 8)["routed experts"]
    assert one == pytest.approx(2 * 8 * (counted.routed_experts - counted.inactive))
    many = decode_bytes(cfg, 10_000, 1, 8)["routed experts"]
    assert many == pytest.approx(2 * 8 * counted.routed_experts)


def test_the_floor_is_the_longer_of_computing_and_moving() -> None:
    ceilings = Ceilings(flops=1e12, bandwidth=1e9)
    assert ceilings.milliseconds(2e12) == 2000
    assert ceilings.milliseconds(2e12, 5e9) == 5000
