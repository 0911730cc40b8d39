"""MythosConfig refuses what cannot be built, by name and value, and survives a round trip."""

import copy
import json
import math
import pickle
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.config.mythos import FIELDS, INTEGERS, MAY_BE_ZERO, REALS, MythosConfig
from open_mythos.errors import ConfigError


@st.composite
def configs(draw: st.DrawFn) -> MythosConfig:
    """Any small valid network."""
    pairs, kv, groups = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    experts = draw(st.integers(1, 6))
    small = st.integers(1, 24)
    return MythosConfig(
        vocab_size=draw(st.integers(1, 300)),
        dim=2 * pairs * kv * groups,
        n_heads=kv * groups,
        n_kv_heads=kv,
        max_seq_len=draw(small),
        max_loop_iters=draw(small),
        prelude_layers=draw(st.integers(0, 2)),
        coda_layers=draw(st.integers(0, 2)),
        attn_type=draw(st.sampled_from(["mla", "gqa"])),
        kv_lora_rank=draw(small),
        q_lora_rank=draw(small),
        qk_rope_head_dim=2 * draw(st.integers(1, 4)),
        qk_nope_head_dim=draw(small),
        v_head_dim=draw(small),
        n_experts=experts,
        n_shared_experts=draw(st.integers(0, 2)),
        n_experts_per_tok=draw(st.integers(1, experts)),
        expert_dim=draw(small),
        act_threshold=draw(st.floats(0.01, 1.0)),
        rope_theta=draw(st.floats(1.0, 1e7)),
        lora_rank=draw(small),
        dropout=draw(st.floats(0.0, 0.99)),
        dense_hidden=draw(st.none() | small),
        readout=draw(st.sampled_from(["act", "last", "act_last", "act_sum"])),
        injection=draw(st.sampled_from(["lti", "add"])),
        halted=draw(st.sampled_from(["continue", "freeze"])),
        kv=draw(st.sampled_from(["per_loop", "first", "last"])),
        loop_index=draw(st.booleans()),
        loop_lora=draw(st.booleans()),
        embed_init_std=draw(st.none() | st.floats(0.0, 1.0)),
    )


@settings(deadline=None, max_examples=60)
@given(cfg=configs())
def test_dict_json_and_pickle_round_trips_are_identity(cfg: MythosConfig) -> None:
    assert MythosConfig.from_dict(cfg.to_dict()) == cfg
    assert MythosConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    assert copy.deepcopy(cfg) == cfg


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("n_heads", {"n_heads": 3}, "n_heads (3) must divide dim (2048)"),
    ("n_kv_heads", {"attn_type": "gqa", "n_kv_heads": 3}, "n_kv_heads (3) must divide n_heads"),
    ("attn_type", {"attn_type": "gqx"}, "'gqx'"),
    ("readout", {"readout": "mean"}, "'mean'"),
    ("injection", {"injection": "concat"}, "'concat'"),
    ("halted", {"halted": "stop"}, "'stop'"),
    ("kv", {"kv": "frist"}, "is 'per_loop' or 'first' or 'last', not 'frist'"),
    ("kv", {"kv": None}, "not None"),
    ("qk_rope_head_dim", {"qk_rope_head_dim": 63}, "63"),
    ("dim / n_heads", {"attn_type": "gqa", "dim": 48, "n_heads": 16}, "is 3"),
    ("head_width", {"attn_type": "gqa", "head_width": 5}, "is 5"),
    ("head_width", {"head_width": 64}, "attn_type='gqa'"),
    ("attention_bias", {"attention_bias": True}, "attn_type='gqa'"),
    ("qk_norm", {"qk_norm": True}, "attn_type='gqa'"),
    ("norm_eps", {"norm_eps": 0.0}, "0.0"),
    ("n_experts_per_tok", {"n_experts_per_tok": 65}, "(65) exceeds n_experts (64)"),
    ("act_threshold", {"act_threshold": 0.0}, "0.0"),
    ("act_threshold", {"act_threshold": 1.01}, "1.01"),
    ("dropout", {"dropout": 1.0}, "1.0"),
    ("lti_decay", {"lti_decay": 1.0}, "1.0"),
    ("rope_theta", {"rope_theta": -1.0}, "-1.0"),
    ("init_std", {"init_std": -0.1}, "-0.1"),
    ("loop_lora", {"loop_lora": 1}, "not 1"),
    ("core_lora_rank", {"core_lora_rank": 2}, "attn_type='gqa', core_ffn='dense'"),
    ("core_lora_rank", {"core_lora_rank": -1}, "-1"),
]


@pytest.mark.parametrize(("name", "values", "shown"), REFUSED)
def test_a_refusal_names_the_field_and_the_value(
    name: str, values: dict[str, Any], shown: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        MythosConfig(**values)
    assert name in str(caught.value)
    assert shown in str(caught.value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [2.0, "8", True, -1])
def test_integer_fields_take_only_counts(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        MythosConfig(**{name: value})
    assert name in str(caught.value)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize("name", [n for n in INTEGERS if n not in MAY_BE_ZERO])
def test_zero_is_refused_where_it_builds_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        MythosConfig(**{name: 0})


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True])
def test_real_fields_take_only_finite_numbers(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        MythosConfig(**{name: value})


def test_an_unknown_field_is_refused_with_the_closest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"no field 'n_head'; did you mean 'n_heads'"):
        MythosConfig.from_dict({"n_head": 4})
    cfg = MythosConfig()
    with pytest.raises(ConfigError, match="did you mean 'vocab_size'"):
        cfg.vocab_sise = 3  # type: ignore[attr-defined]


def test_assignment_is_honoured_and_checked_when_asked() -> None:
    cfg = MythosConfig()
    cfg.vocab_size = 50257
    cfg.validate()
    assert cfg.vocab_size == 50257
    cfg.n_heads = 7
    with pytest.raises(ConfigError, match="n_heads"):
        cfg.validate()


def test_seed_defaults_are_those_of_the_contract() -> None:
    cfg = MythosConfig()
    assert (cfg.vocab_size, cfg.dim, cfg.n_heads, cfg.n_kv_heads) == (32000, 2048, 16, 4)
    assert (cfg.max_seq_len, cfg.max_loop_iters, cfg.max_output_tokens) == (4096, 16, 4096)
    assert (cfg.prelude_layers, cfg.coda_layers, cfg.attn_type) == (2, 2, "mla")
    assert (cfg.kv_lora_rank, cfg.q_lora_rank, cfg.qk_rope_head_dim) == (512, 1536, 64)
    assert (cfg.qk_nope_head_dim, cfg.v_head_dim) == (128, 128)
    assert (cfg.n_experts, cfg.n_shared_experts, cfg.n_experts_per_tok) == (64, 2, 4)
    assert (cfg.expert_dim, cfg.act_threshold, cfg.rope_theta) == (512, 0.99, 500000.0)
    assert (cfg.lora_rank, cfg.dropout) == (16, 0.0)
    assert (cfg.readout, cfg.injection, cfg.halted) == ("act", "lti", "continue")
    assert cfg.kv == "per_loop"
    assert cfg.loop_index
    assert cfg.loop_lora


@settings(deadline=None, max_examples=40)
@given(dim=st.integers(1, 5000))
def test_dense_width_is_the_next_multiple_of_64_unless_given(dim: int) -> None:
    cfg = MythosConfig(dim=dim, n_heads=1)
    exact = dim * 4 // 3
    assert cfg.dense_width % 64 == 0
    assert 0 <= cfg.dense_width - exact < 64
    assert replace(cfg, dense_hidden=exact or 1).dense_width == (exact or 1)


def test_derived_sizes_follow_the_attention() -> None:
    latent = MythosConfig()
    grouped = replace(latent, attn_type="gqa")
    assert latent.rope_dim == latent.qk_rope_head_dim
    assert latent.cache_widths == {"c_kv": (512,), "k_rope": (64,)}
    assert grouped.rope_dim == grouped.head_dim == 128
    assert grouped.cache_widths == {"k": (4, 128), "v": (4, 128)}
    assert latent.loop_dim == 256
    assert latent.shared_width == 2048


@pytest.mark.parametrize(("kv", "slots"), [("per_loop", 7), ("first", 1), ("last", 1)])
def test_loops_that_share_keys_need_one_slot(kv: str, slots: int) -> None:
    cfg = MythosConfig(kv=kv)  # type: ignore[arg-type]
    assert cfg.loop_slots(7) == slots
    assert cfg.loop_slots(1) == 1


def test_every_field_is_a_plain_value() -> None:
    assert {f.name for f in fields(MythosConfig)} == set(FIELDS)
    allowed = (int, float, str, bool, type(None))
    assert all(isinstance(v, allowed) for v in MythosConfig().to_dict().values())
