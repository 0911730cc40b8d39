"""MoDAConfig: the published names and defaults, and what is refused."""

from collections.abc import Callable

import pytest

from open_mythos.errors import ConfigError
from open_mythos.moda import MoDAConfig


PUBLISHED = {
    "vocab_size": 32000,
    "d_model": 2048,
    "n_layers": 24,
    "n_heads_q": 16,
    "n_heads_kv": 8,
    "head_dim": 128,
    "max_seq_len": 4096,
    "rope_base": 10000.0,
    "attn_dropout": 0.0,
    "norm_eps": 1e-6,
    "n_shared_experts": 2,
    "n_routed_experts": 64,
    "n_activated_experts": 6,
    "expert_hidden_dim": 704,
    "moe_balance_alpha": 0.001,
    "moe_score_func": "softmax",
    "moe_n_groups": 1,
    "moe_topk_groups": 1,
    "moe_route_scale": 1.0,
}


def test_published_fields_come_first_with_their_defaults() -> None:
    values = MoDAConfig().to_dict()
    assert list(values)[: len(PUBLISHED)] == list(PUBLISHED)
    assert {name: values[name] for name in PUBLISHED} == PUBLISHED


def test_there_and_back(tiny: Callable[..., MoDAConfig]) -> None:
    cfg = tiny(depth_from="both")
    assert MoDAConfig.from_dict(cfg.to_dict()) == cfg


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_model", 0),
        ("n_layers", 2.0),
        ("n_layers", True),
        ("n_heads_q", 3),
        ("head_dim", 5),
        ("n_shared_experts", -1),
        ("n_routed_experts", 1),
        ("n_activated_experts", 7),
        ("moe_n_groups", 4),
        ("moe_topk_groups", 2),
        ("moe_score_func", "relu"),
        ("moe_balance", "none"),
        ("moe_balance_alpha", -0.1),
        ("moe_balance_alpha", "0.1"),
        ("moe_route_scale", 0.0),
        ("depth_from", "all"),
        ("block_norm", "sandwich"),
        ("rope_base", float("nan")),
        ("rope_base", 0),
        ("attn_dropout", 1.0),
        ("norm_eps", float("inf")),
        ("init_std", None),
    ],
)
def test_bad_values_are_named(field: str, value: object, tiny: Callable[..., MoDAConfig]) -> None:
    with pytest.raises(ConfigError, match=field):
        tiny(**{field: value})


def test_more_picks_than_the_open_groups_hold(tiny: Callable[..., MoDAConfig]) -> None:
    with pytest.raises(ConfigError, match=r"moe_n_groups \(6\) hold 1 of the"):
        tiny(moe_n_groups=6)
    tiny(moe_n_groups=6, moe_topk_groups=2)


def test_unknown_fields_get_a_hint() -> None:
    with pytest.raises(ConfigError, match="n_layers"):
        MoDAConfig.from_dict({"n_layer": 2})
    with pytest.raises(ConfigError, match="d_model"):
        MoDAConfig().d_modl = 3
