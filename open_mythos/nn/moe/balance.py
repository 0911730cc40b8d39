"""Keeping experts evenly used: pure functions from expert loads to bias steps and measures."""

import torch
from torch import Tensor


def step_bias(bias: Tensor, load: Tensor, step_size: float | Tensor) -> Tensor:
    """Raise the bias of experts below the mean load, lower that of those above, by `step_size`.

    Args:
        bias: (E,).
        load: (E,) tokens per expert since the last step, over all loops, micro-batches and ranks.
        step_size: How far; 0.001 in DeepSeek-V3.
    """
    wide = load.to(bias.dtype)
    return bias + step_size * (wide.mean() - wide).sign()


def load_entropy(load: Tensor) -> Tensor:
    """Entropy of the load (.., E) as a share of its maximum: 1 is even, 0 is one expert."""
    share = load.double() / load.sum(dim=-1, keepdim=True).clamp(min=1)
    entropy = -(share * share.clamp(min=1e-12).log()).sum(dim=-1)
    return entropy / torch.log(torch.tensor(float(max(load.shape[-1], 2)), dtype=torch.float64))


def load_peak(load: Tensor) -> Tensor:
    """Load (.., E) of the busiest expert over the mean load, (..): 1 is even, E is one expert."""
    wide = load.double()
    mean = wide.mean(dim=-1)
    # Loops that no token took part in have no mean: their peak is 0.
    return wide.amax(dim=-1) / mean.clamp(min=torch.finfo(torch.float64).tiny)


def dead_experts(load: Tensor) -> Tensor:
    """Experts of a load (.., E) that no token visited, (..) int64."""
    return (load == 0).sum(dim=-1)


def recomputing() -> bool:
    """Whether this forward runs inside a backward pass, as activation checkpointing makes it.

    Loads must be counted once; autograd's task id is -1 outside a backward pass (private in
    torch, hence looked up with a default).
    """
    if torch.compiler.is_compiling():
        return False
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1
