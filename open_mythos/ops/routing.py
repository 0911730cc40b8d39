"""Who is picked and how much each counts: the bias picks, never weighs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.ops import rows
from open_mythos.ops.experts import Plan, plan_experts
from open_mythos.ops.rows import RowsBackend


MOST_EXPERTS = 1024  # a kernel holds the scores of a row in one block


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


def routes_backend(logits: Tensor, bias: Tensor) -> RowsBackend:
    """The implementation for logits (N, E): kernels on CUDA, also where torch compiles."""
    fits = (
        rows.HAS_TRITON
        and logits.is_cuda
        and bias.is_cuda
        and logits.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and bias.dtype == torch.float32
        and logits.shape[1] <= MOST_EXPERTS
    )
    return "triton" if fits else "plain"


def route(logits: Tensor, bias: Tensor, k: int) -> Routing:
    """Pick the k largest of logits + bias; weigh by the softmax of the logits alone, renormalised.

    Auxiliary-loss-free balancing (DeepSeek-V3, arXiv 2412.19437): the bias moves the choice and
    stays out of the output and its gradient.

    Args:
        logits: (N, E).
        bias: (E,).
        k: Experts per token.
    """
    if routes_backend(logits, bias) == "triton":
        from open_mythos.kernels.routes import route_many  # noqa: PLC0415 -- triton is optional

        ids, weights, order, inverse, ends, load = route_many(logits, bias, k)
        return Routing(ids, weights.to(logits.dtype), Plan(order, inverse, ends, k, load))
    return route_plain(logits, bias, k)


def route_plain(logits: Tensor, bias: Tensor, k: int) -> Routing:
    """`route` in torch."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    ids = (wide + bias).topk(k, dim=-1).indices
    # The softmax over all, renormalised over the picked, is the softmax over the picked; written
    # so, it cannot underflow to 0 / 0 where the bias picks experts with hopeless scores.
    weights = wide.gather(-1, ids).softmax(dim=-1)
    return Routing(
        ids=ids, weights=weights.to(logits.dtype), plan=plan_experts(ids, logits.shape[-1])
    )
