"""How parameters start."""

from collections.abc import Callable

import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.model.mythos import OpenMythos


WIDE = {
    "dim": 64,
    "vocab_size": 300,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "expert_dim": 24,
    "lora_rank": 32,
    "max_loop_iters": 30,
    "dense_hidden": 64,
}


@pytest.mark.parametrize("attn_type", ["gqa", "mla"])
@pytest.mark.parametrize("std", [0.02, 0.3])
def test_matrices_start_at_the_configured_deviation(
    attn_type: str, std: float, tiny_config: Callable[..., MythosConfig]
) -> None:
    model = OpenMythos(tiny_config(attn_type=attn_type, init_std=std, **WIDE))
    checked = 0
    for name, p in model.named_parameters():
        if p.dim() < 2:
            continue
        checked += 1
        # Five standard errors of the mean and of the deviation of n normal numbers.
        n = p.numel()
        assert abs(p.mean().item()) < 5 * std / n**0.5, name
        assert abs(p.std().item() - std) < 5 * std / (2 * n) ** 0.5, name
    assert checked >= 12


def test_vectors_start_where_their_modules_say(tiny_config: Callable[..., MythosConfig]) -> None:
    model = OpenMythos(tiny_config(lti_decay=0.3))
    assert model.norm.weight.eq(1).all()
    assert model.recurrent.act.halt.bias.eq(0).all()
    assert model.recurrent.injection.B.allclose(torch.tensor(0.1))
    assert model.recurrent.injection.get_A().allclose(torch.tensor(0.3))
    assert model.recurrent.block.ffn.router_bias.eq(0).all()


def test_the_embedding_may_start_elsewhere(tiny_config: Callable[..., MythosConfig]) -> None:
    model = OpenMythos(tiny_config(embed_init_std=0.7, init_std=0.0, **WIDE))
    assert model.embed.weight.std().item() == pytest.approx(0.7, rel=0.05)
    assert model.head.weight is model.embed.weight
    assert model.recurrent.block.ffn.gate_up.eq(0).all()
    assert model.recurrent.lora.B.eq(0).all()
