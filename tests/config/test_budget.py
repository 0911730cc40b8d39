"""The budget counts what is really built, run and cached."""

import random
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open_mythos.config.budget import (
    attention_weights,
    cache_bytes_per_token,
    flops_per_token,
    parameters,
    training_flops_per_token,
    with_attention,
)
from open_mythos.config.mythos import KVMode, MythosConfig
from open_mythos.config.presets import PRESETS, SEED
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.attention.mla import MLAttention
from open_mythos.nn.moe.layer import MoEFFN


def random_config(seed: int) -> MythosConfig:
    """A small network with every size drawn apart, so that swapped factors show."""
    pick = random.Random(seed)
    kv, groups = pick.randint(1, 3), pick.randint(1, 3)
    experts = pick.randint(1, 7)
    return MythosConfig(
        vocab_size=pick.randint(2, 97),
        dim=2 * pick.randint(4, 9) * kv * groups,
        n_heads=kv * groups,
        n_kv_heads=kv,
        max_seq_len=32,
        max_loop_iters=pick.randint(1, 5),
        prelude_layers=pick.randint(0, 3),
        coda_layers=pick.randint(0, 3),
        attn_type=pick.choice(["mla", "gqa"]),
        kv_lora_rank=pick.randint(2, 20),
        q_lora_rank=pick.randint(2, 20),
        qk_rope_head_dim=2 * pick.randint(1, 5),
        qk_nope_head_dim=pick.randint(2, 9),
        v_head_dim=pick.randint(2, 9),
        n_experts=experts,
        n_shared_experts=pick.randint(0, 3),
        n_experts_per_tok=pick.randint(1, experts),
        expert_dim=pick.randint(2, 30),
        lora_rank=pick.randint(2, 6),
        dense_hidden=pick.choice([None, pick.randint(2, 50)]),
        readout=pick.choice(["act", "last", "act_last", "act_sum"]),
        injection=pick.choice(["lti", "add"]),
        loop_lora=pick.choice([True, False]),
        tied_head=pick.choice([True, False]),
        last_norm=pick.choice([True, False]),
        coda_input=pick.choice(["plain", "linear"]),
    )


def with_parts_of_heads(cfg: MythosConfig, seed: int) -> MythosConfig:
    """The same with what only grouped-query attention may have, drawn too."""
    if cfg.attn_type != "gqa":
        return cfg
    pick = random.Random(seed)
    return replace(
        cfg,
        head_width=pick.choice([None, 2 * pick.randint(1, 5)]),
        attention_bias=pick.choice([True, False]),
        qk_norm=pick.choice([True, False]),
    )


def part_of(name: str) -> str:
    """The budget part that a parameter of the built model belongs to."""
    if "norm" in name or name.endswith("attn.bias"):
        return "norms"
    for prefix, part in (
        ("embed", "embedding"),
        ("head", "embedding"),
        ("prelude", "prelude"),
        ("coda", "coda"),
        ("recurrent.block.attn", "loop_attention"),
        ("recurrent.block.ffn.router", "router"),
        ("recurrent.block.ffn.shared", "shared_experts"),
        ("recurrent.block.ffn", "routed_experts"),
        ("recurrent.lora", "adapter"),
        ("recurrent.injection", "injection"),
        ("recurrent.act", "halting"),
    ):
        if name.startswith(prefix):
            return part
    raise AssertionError(f"{name} belongs to no part")


@pytest.mark.parametrize("seed", range(24))
def test_parameters_equal_the_built_models_part_by_part(seed: int) -> None:
    cfg = with_parts_of_heads(random_config(seed), seed)
    with torch.device("meta"):
        model = OpenMythos(cfg)
    built = dict.fromkeys(parameters(cfg).parts(), 0)
    for name, parameter in model.named_parameters():
        built[part_of(name)] += parameter.numel()
    assert parameters(cfg).parts() == built
    assert parameters(cfg).total == sum(p.numel() for p in model.parameters())
    loop = [p for n, p in model.named_parameters() if n.startswith("recurrent.")]
    norms = [p for n, p in model.named_parameters() if part_of(n) == "norms" and "recurrent" in n]
    assert parameters(cfg).looped == sum(p.numel() for p in loop) - sum(p.numel() for p in norms)


def test_a_norm_before_the_coda_is_one_of_the_norms() -> None:
    cfg = replace(random_config(2), coda_input="plain")
    normed = replace(cfg, coda_input="norm")
    with torch.device("meta"):
        model = OpenMythos(normed)
    assert parameters(normed).total == sum(p.numel() for p in model.parameters())
    assert parameters(normed).norms == parameters(cfg).norms + cfg.dim


def test_a_dense_core_of_layers_is_looped_whole() -> None:
    cfg = replace(random_config(3), core_ffn="dense", core_layers=3, initial_state="learned")
    with torch.device("meta"):
        model = OpenMythos(cfg)
    loop = model.recurrent.named_parameters()
    assert parameters(cfg).looped == sum(p.numel() for name, p in loop if "norm" not in name)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_on_the_meta_device_with_the_budgets_count(name: str) -> None:
    cfg = PRESETS[name]()
    with torch.device("meta"):
        model = OpenMythos(cfg)
    assert parameters(cfg).total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("seed", range(12))
def test_active_is_the_total_of_the_network_with_only_the_visited_experts(seed: int) -> None:
    cfg = random_config(seed)
    visited = replace(cfg, n_experts=cfg.n_experts_per_tok)
    unused_router_rows = cfg.dim * (cfg.n_experts - cfg.n_experts_per_tok)
    assert parameters(cfg).active == parameters(visited).total + unused_router_rows


@pytest.mark.parametrize("kv", ["per_loop", "first"])
@pytest.mark.parametrize("seed", range(8))
def test_flops_of_one_token_equal_those_that_torch_counts(seed: int, kv: KVMode) -> None:
    # One token sees one key, (1 + 1) / 2, so that a counter blind to causality agrees too; it
    # counts attention as plain matrix products only, no product whose inner width is 1, and no
    # matrix times a vector, which is what halting is.
    cfg = replace(random_config(seed), n_experts=1, n_experts_per_tok=1, kv=kv)
    loops = 1 + seed % 3
    model = OpenMythos(cfg).eval()
    torch.nn.init.constant_(model.recurrent.act.halt.bias, -20.0)  # no early end of the loop
    for layer in model.modules():
        if isinstance(layer, MLAttention):
            layer.form = "expanded"  # left alone, it may find the absorbed one cheaper
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        model(torch.zeros(1, 1, dtype=torch.long), n_loops=loops)
    halting = 0 if cfg.readout == "last" else 2 * loops * cfg.dim
    assert counter.get_total_flops() + halting == flops_per_token(cfg, loops, 1).total


@pytest.mark.parametrize("backprop", [None, 1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_flops_of_a_training_step_equal_those_that_torch_counts(
    seed: int, backprop: int | None
) -> None:
    # The counter is blind to causality: all of the S keys that it sees are (2S - 1 + 1) / 2.
    cfg, length, loops = random_config(seed), 7, 1 + seed % 4
    if backprop is None and seed % 2:
        cfg = replace(cfg, kv="first")
    model = OpenMythos(cfg).train()
    torch.nn.init.constant_(model.recurrent.act.halt.bias, -20.0)
    ffn = model.recurrent.block.ffn
    assert isinstance(ffn, MoEFFN)
    ffn.experts_backend = "loop"  # of plain products, which the counter sees
    for layer in model.modules():
        if isinstance(layer, MLAttention):
            layer.form = "expanded"
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        ids = torch.randint(cfg.vocab_size, (1, length))
        logits = model(ids, loops, backprop_loops=backprop)
        logits.square().sum().backward()
    passes = loops + 2 * min(loops, backprop or loops)
    halting = 0 if cfg.readout == "last" else 2 * cfg.dim * length * passes  # a matrix by a vector
    wanted = length * training_flops_per_token(cfg, loops, 2 * length - 1, backprop)
    assert counter.get_total_flops() + halting == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_flops_are_linear_in_loops_and_in_context(seed: int) -> None:
    cfg = random_config(seed)

    def total(loops: int, context: int) -> float:
        return flops_per_token(cfg, loops, context).total

    assert total(7, 10) - total(5, 10) == pytest.approx(2 * (total(6, 10) - total(5, 10)))
    assert total(3, 30) - total(3, 10) == pytest.approx(2 * (total(3, 20) - total(3, 10)))
    assert total(4, 11) > total(4, 10) > total(3, 10)


def test_attention_over_a_causal_sequence_counts_each_visible_pair_once() -> None:
    cfg = MythosConfig(attn_type="gqa", prelude_layers=1, coda_layers=0)
    pairs = sum(range(1, 101))  # position i sees i keys
    flops = 100 * (flops_per_token(cfg, 1, 100).prelude - flops_per_token(cfg, 1, 1).prelude)
    assert flops == 4 * cfg.dim * (pairs - 100)


@pytest.mark.parametrize("kv", ["per_loop", "first", "last"])
@pytest.mark.parametrize("seed", range(8))
def test_cache_bytes_equal_the_size_of_the_filled_cache(seed: int, kv: KVMode) -> None:
    cfg = replace(random_config(seed), kv=kv)
    loops, length = 1 + seed % 4, 5
    model = OpenMythos(cfg).eval()
    cache: dict[str, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.long), n_loops=loops, kv_cache=cache)
    size = sum(t.numel() * t.element_size() for entry in cache.values() for t in entry.values())
    assert size == length * cache_bytes_per_token(cfg, loops, bytes_per_number=4)


def test_the_latent_cache_is_smaller_in_the_default_config_and_in_the_seed_family() -> None:
    for cfg in (MythosConfig(), *(build() for build in SEED.values())):
        grouped = with_attention(cfg, "gqa")
        assert grouped is not None
        assert cache_bytes_per_token(cfg) < cache_bytes_per_token(grouped)


def test_the_other_attention_is_none_where_its_heads_do_not_fit() -> None:
    cfg = MythosConfig(n_kv_heads=3)
    assert with_attention(cfg, "gqa") is None
    assert with_attention(cfg, "mla") == cfg


def test_attention_weights_of_a_known_shape() -> None:
    cfg = MythosConfig(attn_type="gqa", dim=64, n_heads=4, n_kv_heads=2)
    assert attention_weights(cfg) == 64 * 64 + 2 * 64 * 32 + 64 * 64


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_counts_below_one_are_refused_by_name(value: object) -> None:
    for call, name in (
        (lambda: flops_per_token(MythosConfig(), n_loops=value), "n_loops"),  # type: ignore[arg-type]
        (lambda: flops_per_token(MythosConfig(), context=value), "context"),  # type: ignore[arg-type]
        (lambda: cache_bytes_per_token(MythosConfig(), n_loops=value), "n_loops"),  # type: ignore[arg-type]
        (
            lambda: training_flops_per_token(MythosConfig(), backprop_loops=value),  # type: ignore[arg-type]
            "backprop_loops",
        ),
    ):
        with pytest.raises(InputError, match=f"{name} is {value}"):
            call()
