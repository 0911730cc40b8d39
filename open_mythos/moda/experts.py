"""DeepSeekMoE: routed experts, picked by a gate of several kinds, beside always-on ones."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from open_mythos.moda.config import MoDAConfig
from open_mythos.moda.routing import balance_loss, choose
from open_mythos.nn.feed_forward import Expert
from open_mythos.nn.linear import Linear
from open_mythos.nn.moe.balance import step_bias
from open_mythos.ops.experts import plan_experts, run_experts


@dataclass(frozen=True)
class Mixed:
    """What a mixture says, and how evenly.

    Attributes:
        out: (B, T, d_model).
        load: (E,) int64, tokens per expert.
        imbalance: Scalar, `balance_loss`; None where it was not asked for.
    """

    out: Tensor
    load: Tensor
    imbalance: Tensor | None


class DeepSeekMoE(nn.Module):
    """n_activated_experts of the routed experts per token, plus all shared ones.

    Routed experts are stacked, gate_up (E, d_model, 2 * hidden) and down (E, hidden, d_model); the
    shared ones are one SwiGLU of their summed width, which is the same function.

    Attributes:
        router_bias: (E,), None where balance is a loss.
    """

    router_bias: Tensor | None
    load: Tensor

    def __init__(self, cfg: MoDAConfig) -> None:
        """Use the expert fields of `cfg`."""
        super().__init__()
        self.cfg = cfg
        count, hidden = cfg.n_routed_experts, cfg.expert_hidden_dim
        self.router = Linear(cfg.d_model, count)
        self.gate_up = nn.Parameter(torch.empty(count, cfg.d_model, 2 * hidden))
        self.down = nn.Parameter(torch.empty(count, hidden, cfg.d_model))
        shared = cfg.n_shared_experts * hidden
        self.shared = Expert(cfg.d_model, shared) if shared else None
        biased = cfg.moe_balance == "bias"
        self.register_buffer("router_bias", torch.zeros(count) if biased else None)
        self.register_buffer("load", torch.zeros(count, dtype=torch.int64), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DeepSeekMoE":
        """Keep the bias in float32: bfloat16 would swallow steps of 0.001."""
        before = self.router_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        now = self.router_bias
        if before is not None and now is not None and now.dtype in (torch.bfloat16, torch.float16):
            self.router_bias = before.float().to(now.device)
        return self

    def forward(self, x: Tensor, *, weigh: bool = False) -> Mixed:
        """(B, T, d_model) through its experts; `weigh` asks for the balance loss."""
        cfg, rows = self.cfg, x.flatten(0, -2)
        choice = choose(
            self.router(rows),
            cfg.n_activated_experts,
            score=cfg.moe_score_func,
            bias=self.router_bias,
            groups=cfg.moe_n_groups,
            top_groups=cfg.moe_topk_groups,
            scale=cfg.moe_route_scale,
        )
        plan = plan_experts(choice.ids, cfg.n_routed_experts)
        out = run_experts(
            rows,
            choice.ids,
            choice.weights,
            self.gate_up,
            self.down,
            plan=plan,
            extra=None if self.shared is None else self.shared(rows),
        )
        imbalance = balance_loss(choice.shares, plan.load) if weigh else None
        return Mixed(out.view(x.shape), plan.load, imbalance)

    @torch.no_grad()
    def update_bias(self, step_size: float | Tensor) -> Tensor:
        """Step the bias by the load gathered since the last call, forget the load and return it."""
        load = self.load.clone()
        if self.router_bias is not None:
            self.router_bias.copy_(step_bias(self.router_bias, load, step_size))
        self.load.zero_()
        return load
