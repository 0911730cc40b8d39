"""Who is picked and how much each counts: the bias picks, never weighs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.ops.experts import Plan, plan_experts


@dataclass(frozen=True)
class Routing:
    """Experts of N tokens.

    Attributes:
        ids: (N, k) int64.
        weights: (N, k), positive, each row sums to one.
        plan: The choices in the order of their experts.
    """

    ids: Tensor
    weights: Tensor
    plan: Plan

    @property
    def load(self) -> Tensor:
        """(E,) int64, tokens per expert."""
        return self.plan.load


def route(logits: Tensor, bias: Tensor, k: int) -> Routing:
    """Pick the k largest of logits + bias; weigh by the softmax of the logits alone, renormalised.

    Auxiliary-loss-free balancing (DeepSeek-V3, arXiv 2412.19437): the bias moves the choice and
    stays out of the output and its gradient.

    Args:
        logits: (N, E).
        bias: (E,).
        k: Experts per token.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    ids = (wide + bias).topk(k, dim=-1).indices
    # The softmax over all, renormalised over the picked, is the softmax over the picked; written
    # so, it cannot underflow to 0 / 0 where the bias picks experts with hopeless scores.
    weights = wide.gather(-1, ids).softmax(dim=-1)
    return Routing(
        ids=ids, weights=weights.to(logits.dtype), plan=plan_experts(ids, logits.shape[-1])
    )
