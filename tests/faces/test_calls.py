"""Calls and attributes that public tutorials rely on, as they stand."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from open_mythos import MythosConfig, OpenMythos


Config = Callable[..., MythosConfig]
Shake = Callable[..., Any]

SEED_FIELDS = """
    vocab_size dim n_heads n_kv_heads max_seq_len max_loop_iters prelude_layers coda_layers
    attn_type kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim n_experts
    n_shared_experts n_experts_per_tok expert_dim act_threshold rope_theta lora_rank
    max_output_tokens dropout
"""


@pytest.fixture
def model(tiny_config: Config, randomised: Shake, attn_type: str) -> Any:
    return randomised(OpenMythos(tiny_config(attn_type=attn_type))).eval()


@pytest.fixture
def ids(model: Any) -> Tensor:
    return torch.randint(0, model.cfg.vocab_size, (2, 6))


# -- construction ---------------------------------------------------------------------------------


def test_every_field_of_the_seed_is_a_keyword_and_defaults_are_valid() -> None:
    names = SEED_FIELDS.split()
    assert set(names) <= {f.name for f in fields(MythosConfig)}
    values = {name: getattr(MythosConfig(), name) for name in names}
    assert MythosConfig(**values) == MythosConfig()
    assert asdict(MythosConfig())["dim"] == 2048


def test_assignment_before_building_is_honoured_and_later_assignment_stays_outside(
    tiny_config: Config,
) -> None:
    cfg = tiny_config()
    cfg.vocab_size = 53
    model = OpenMythos(cfg)
    assert model.embed.num_embeddings == model.cfg.vocab_size == 53
    assert model(torch.tensor([[52]])).shape == (1, 1, 53)
    cfg.vocab_size = 7
    assert model.cfg.vocab_size == 53


def test_a_bad_assignment_is_refused_when_a_model_is_built(tiny_config: Config) -> None:
    cfg = tiny_config()
    cfg.n_heads = 5
    with pytest.raises(ValueError, match=r"n_heads \(5\) must divide dim \(16\)"):
        OpenMythos(cfg)


@pytest.mark.parametrize("attn", ["gqa", "mla"])
def test_the_readme_example_of_the_seed(attn: str) -> None:
    base: dict[str, Any] = {
        "vocab_size": 1000,
        "dim": 256,
        "n_heads": 8,
        "max_seq_len": 128,
        "max_loop_iters": 4,
        "prelude_layers": 1,
        "coda_layers": 1,
        "n_experts": 8,
        "n_shared_experts": 1,
        "n_experts_per_tok": 2,
        "expert_dim": 64,
        "lora_rank": 8,
        "attn_type": attn,
    }
    if attn == "gqa":
        cfg = MythosConfig(**base, n_kv_heads=2)
    else:
        latent = {"kv_lora_rank": 32, "q_lora_rank": 64, "qk_rope_head_dim": 16}
        heads = {"qk_nope_head_dim": 16, "v_head_dim": 16}
        cfg = MythosConfig(**base, n_kv_heads=8, **latent, **heads)
    model = OpenMythos(cfg)
    assert sum(p.numel() for p in model.parameters()) > 1_000_000
    ids = torch.randint(0, cfg.vocab_size, (2, 16))
    assert model(ids, n_loops=4).shape == (2, 16, 1000)
    out = model.generate(ids, max_new_tokens=8, n_loops=8)
    assert out.shape == (2, 24)
    assert torch.equal(out[:, :16], ids)
    assert 0.0 < model.recurrent.injection.get_A().max().item() < 1.0


# -- attributes -----------------------------------------------------------------------------------


def test_the_named_parts_are_there(model: Any) -> None:
    cfg = model.cfg
    assert isinstance(cfg, MythosConfig)
    assert isinstance(model.embed, nn.Embedding)
    assert isinstance(model.head, nn.Linear)
    assert model.head.weight is model.embed.weight
    assert (len(model.prelude), len(model.coda)) == (cfg.prelude_layers, cfg.coda_layers)
    for name in ("block", "injection", "act", "lora", "norm"):
        assert isinstance(getattr(model.recurrent, name), nn.Module)
    block = model.recurrent.block
    for name in ("attn", "ffn", "attn_norm", "ffn_norm"):
        assert isinstance(getattr(block, name), nn.Module)
    assert isinstance(model.norm, nn.Module)
    assert block.ffn.topk == cfg.n_experts_per_tok
    assert len(block.ffn.routed_experts) == cfg.n_experts
    assert len(block.ffn.shared_experts) == cfg.n_shared_experts
    assert model.recurrent.lora.scale.weight.shape == (cfg.max_loop_iters, cfg.lora_rank)


def test_the_tables_are_complex_and_cost_no_buffer(model: Any) -> None:
    cfg = model.cfg
    assert model.freqs_cis.shape == (cfg.max_seq_len, cfg.head_dim // 2)
    assert model.freqs_cis_mla.shape == (cfg.max_seq_len, cfg.qk_rope_head_dim // 2)
    assert model.freqs_cis.dtype == model.freqs_cis_mla.dtype == torch.complex64
    before = model.freqs_cis_mla
    assert torch.equal(model.to(torch.bfloat16).freqs_cis_mla, before)
    assert not any("freqs" in name for name, _ in model.named_buffers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_causal_mask(dtype: torch.dtype) -> None:
    mask = OpenMythos._causal_mask(4, torch.device("cpu"), dtype)
    assert (mask.shape, mask.dtype) == ((1, 1, 4, 4), dtype)
    for i in range(4):
        for j in range(4):
            assert float(mask[0, 0, i, j]) == (0.0 if j <= i else float("-inf"))
    assert OpenMythos._causal_mask(3, torch.device("cpu")).dtype == torch.float32


# -- forward --------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_call_forms_of_the_seed(model: Any, ids: Tensor) -> None:
    logits = model(ids)
    assert logits.shape == (2, 6, model.cfg.vocab_size)
    assert torch.equal(logits, model(ids, None, None, 0))
    assert torch.equal(logits, model(ids, n_loops=model.cfg.max_loop_iters))
    assert torch.equal(logits, model(ids, n_loops=None, kv_cache=None, start_pos=0))
    model.recurrent.act.halt.bias.fill_(-4.0)  # nobody halts early
    logits = model(ids)
    more = model(ids, n_loops=5 * model.cfg.max_loop_iters)
    assert more.isfinite().all()
    assert not torch.allclose(more, logits)


@torch.no_grad()
def test_a_plain_dict_is_filled_in_place_and_extends(model: Any, ids: Tensor) -> None:
    cache: dict[str, Any] = {}
    first = model(ids[:, :4], n_loops=2, kv_cache=cache, start_pos=0)
    assert set(cache) == {"prelude_0", "coda_0", "recurrent_loop_0", "recurrent_loop_1"}
    held = cache
    second = model(ids[:, 4:], n_loops=2, kv_cache=cache, start_pos=4)
    assert cache is held
    both = torch.cat((first, second), dim=1)
    assert torch.allclose(both, model(ids, n_loops=2), atol=1e-5)
    cfg = model.cfg
    width = (
        cfg.kv_lora_rank + cfg.qk_rope_head_dim
        if cfg.attn_type == "mla"
        else 2 * cfg.n_kv_heads * cfg.head_dim
    )
    size = sum(t.numel() * t.element_size() for entry in cache.values() for t in entry.values())
    assert size == 4 * width * 2 * 6 * 4  # layers and loops, numbers, rows, tokens, bytes
    assert all(t.shape[:2] == (2, 6) for entry in cache.values() for t in entry.values())


@torch.no_grad()
def test_the_position_follows_the_cache_and_its_loops_are_fixed(model: Any, ids: Tensor) -> None:
    cache: dict[str, Any] = {}
    parts = [model(ids[:, i : i + 1], 2 if i == 0 else None, cache) for i in range(6)]
    assert torch.allclose(torch.cat(parts, dim=1), model(ids, n_loops=2), atol=1e-5)


@torch.no_grad()
def test_a_dict_whose_tensors_were_replaced_is_read_from_the_tensors(
    model: Any, ids: Tensor
) -> None:
    """Beam search reorders rows; a crop drops the last tokens."""
    cache: dict[str, Any] = {}
    model(ids[:, :5], 2, cache)
    swapped = {k: {n: t[[1, 0], :4] for n, t in entry.items()} for k, entry in cache.items()}
    got = model(ids[[1, 0], 4:], 2, swapped)
    assert torch.allclose(got, model(ids[[1, 0]], 2)[:, 4:], atol=1e-5)


# -- generate -------------------------------------------------------------------------------------


def test_the_generate_forms_of_the_seed(model: Any, ids: Tensor) -> None:
    assert model.generate(ids, 3).shape == (2, 9)
    assert model.generate(ids, 3, 2, 0.7, 5).shape == (2, 9)
    assert model.generate(ids, max_new_tokens=3, temperature=0.0).shape == (2, 9)
    assert model.generate(ids, max_new_tokens=3, top_k=0).shape == (2, 9)
    assert model.generate(ids, max_new_tokens=3, top_k=10_000).shape == (2, 9)
    assert torch.equal(model.generate(ids, 0), ids)


def test_generate_takes_none_for_the_configs_loops(model: Any, ids: Tensor) -> None:
    want = model.generate(ids, 4, model.cfg.max_loop_iters, temperature=0.0)
    assert torch.equal(model.generate(ids, 4, n_loops=None, temperature=0.0), want)


# -- recording ------------------------------------------------------------------------------------


def replace_forward(module: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> None:
    """Wrap `module.forward` on the instance, as tutorials do."""
    plain = module.forward

    def watched(x: Tensor) -> Tensor:
        y: Tensor = plain(x)
        seen.append((x.detach().clone(), y.detach().clone()))
        return y

    module.forward = watched  # type: ignore[method-assign]


@pytest.mark.parametrize("halted_kind", ["continue", "freeze"])
@torch.no_grad()
def test_replacing_forward_on_the_instance_records_halting_and_routing(
    tiny_config: Config, randomised: Shake, attn_type: str, halted_kind: str
) -> None:
    model = randomised(OpenMythos(tiny_config(attn_type=attn_type, halted=halted_kind))).eval()
    model.recurrent.act.halt.bias.fill_(-3.0)  # no early end
    ids = torch.randint(0, model.cfg.vocab_size, (2, 6))
    plain = model(ids, n_loops=4, return_output=True)
    halting: list[tuple[Tensor, Tensor]] = []
    routing: list[tuple[Tensor, Tensor]] = []
    replace_forward(model.recurrent.act, halting)
    replace_forward(model.recurrent.block.ffn, routing)
    watched = model(ids, n_loops=4, return_output=True)
    assert torch.allclose(watched.logits, plain.logits, atol=1e-6)
    assert len(halting) == len(routing) == 4
    assert {p.shape for _, p in halting} == {(2, 6)}
    assert {h.shape for h, _ in halting} == {(2, 6, model.cfg.dim)}
    assert {x.shape for x, _ in routing} == {(2, 6, model.cfg.dim)}
    assert torch.allclose(torch.stack([p for _, p in halting]), plain.halting, atol=1e-6)
    ffn = model.recurrent.block.ffn
    for t, ((x, _), load) in enumerate(zip(routing, plain.router_load, strict=True)):
        picks = (ffn.router(x) + ffn.router_bias).topk(ffn.topk, dim=-1).indices
        if halted_kind == "freeze":  # who has halted visits no expert
            picks = picks[plain.loops_used > t]
        assert torch.equal(picks.flatten().bincount(minlength=ffn.n_experts), load)


@torch.no_grad()
def test_what_a_replaced_forward_returns_is_what_the_model_uses(model: Any, ids: Tensor) -> None:
    before = model(ids, n_loops=3)
    model.recurrent.act.forward = lambda h: torch.ones(h.shape[:2])  # everybody halts at once
    one = model(ids, n_loops=3, return_output=True)
    assert torch.equal(one.loops_used, torch.ones(2, 6, dtype=torch.int64))
    assert torch.allclose(one.logits, model(ids, n_loops=1), atol=1e-6)
    assert not torch.allclose(one.logits, before)
    del model.recurrent.act.forward
    model.recurrent.block.ffn.forward = torch.zeros_like
    assert not torch.allclose(model(ids, n_loops=3), before)
    del model.recurrent.block.ffn.forward
    assert torch.equal(model(ids, n_loops=3), before)


@torch.no_grad()
def test_replaced_forwards_see_every_generated_token(model: Any, ids: Tensor) -> None:
    want = model.generate(ids, 3, 2, temperature=0.0)
    halting: list[tuple[Tensor, Tensor]] = []
    replace_forward(model.recurrent.act, halting)
    assert torch.equal(model.generate(ids, 3, 2, temperature=0.0), want)
    assert [p.shape[1] for _, p in halting] == [6, 6, 1, 1, 1, 1]  # two loops for each call


@torch.no_grad()
def test_forward_hooks_record_too(model: Any, ids: Tensor) -> None:
    shapes: list[tuple[str, torch.Size]] = []
    block = model.recurrent.block
    for name, module in (
        ("ffn", block.ffn),
        ("act", model.recurrent.act),
        ("attn", block.attn_norm),
    ):
        module.register_forward_hook(lambda _, x, __, name=name: shapes.append((name, x[0].shape)))
    model(ids, n_loops=2)
    assert sorted(shapes) == sorted(
        [(n, (2, 6, model.cfg.dim)) for n in ("ffn", "act", "attn")] * 2
    )
