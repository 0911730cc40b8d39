"""The mixture layer: token by token, expert by expert."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from open_mythos.moda import MoDAConfig
from open_mythos.moda.experts import DeepSeekMoE


KINDS: list[dict[str, Any]] = [
    {},
    {"n_shared_experts": 0, "moe_score_func": "sigmoid"},
    {"moe_n_groups": 3, "moe_topk_groups": 1, "moe_balance": "bias"},
    {"n_activated_experts": 6, "moe_route_scale": 0.5},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.no_grad()
def test_equals_one_token_and_one_expert_at_a_time(
    kind: dict[str, Any],
    tiny: Callable[..., MoDAConfig],
    randomised: Callable[..., Any],
    slow_moe: Any,
) -> None:
    moe = DeepSeekMoE(tiny(**kind))
    torch.nn.init.zeros_(moe.gate_up)
    torch.nn.init.zeros_(moe.down)
    moe = randomised(moe.double(), std=0.5)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    mixed = moe(x)
    load = [0] * 6
    for row in range(2):
        for t in range(5):
            want, who, _ = slow_moe(moe, x[row, t])
            torch.testing.assert_close(mixed.out[row, t], want, rtol=1e-9, atol=1e-9)
            for e in who:
                load[e] += 1
    assert mixed.load.tolist() == load
    assert mixed.imbalance is None
    assert moe(x, weigh=True).imbalance is not None


def test_the_bias_stays_wide_and_is_stored(tiny: Callable[..., MoDAConfig]) -> None:
    moe = DeepSeekMoE(tiny(moe_balance="bias"))
    assert moe.router_bias is not None
    moe.router_bias.fill_(1.0 + 2**-12)
    moe.to(torch.bfloat16)
    assert moe.router_bias.dtype == torch.float32
    assert moe.router_bias.eq(1.0 + 2**-12).all()
    assert "router_bias" in moe.state_dict()
    assert "router_bias" not in DeepSeekMoE(tiny()).state_dict()


def test_a_loss_for_balance_has_no_bias_to_step(tiny: Callable[..., MoDAConfig]) -> None:
    moe = DeepSeekMoE(tiny())
    moe.load += torch.arange(6)
    assert moe.update_bias(1.0).tolist() == list(range(6))
    assert moe.router_bias is None
    assert moe.load.sum() == 0
