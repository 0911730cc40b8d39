"""Run many small SwiGLU experts on the tokens routed to them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.ops.backend import ExpertsBackend, experts_backend
from open_mythos.ops.reference import experts_reference


def run_experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    backend: ExpertsBackend = "auto",
) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate(x)) * up(x)).

    Args:
        x: (N, D) tokens.
        ids: (N, k) expert of each token and choice.
        weights: (N, k) weight of each choice.
        gate_up: (E, D, 2F), gate in the first F columns.
        down: (E, F, D).
        backend: Which implementation; "auto" picks (`experts_backend`).

    Returns:
        (N, D).
    """
    chosen = experts_backend(x, down.shape[0], down.shape[1], backend)
    if chosen == "reference":
        return experts_reference(x, ids, weights, gate_up, down)
    if chosen == "dense":
        return _dense(x, ids, weights, gate_up, down)
    order = ids.flatten().argsort(stable=True)
    rows = x[order // ids.shape[1]]
    counts = torch.zeros(gate_up.shape[0], dtype=torch.int64, device=x.device).scatter_add(
        0, ids.flatten(), torch.ones_like(ids.flatten())
    )
    mixed = (_grouped if chosen == "grouped" else _loop)(rows, counts, gate_up, down)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    per_choice: Tensor = mixed[back].unflatten(0, ids.shape)
    return (per_choice * weights.unsqueeze(-1).to(x.dtype)).sum(dim=1)


def _swiglu(hidden: Tensor) -> Tensor:
    gate, up = hidden.chunk(2, dim=-1)
    return F.silu(gate) * up


def _loop(rows: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One matmul pair per expert that has tokens."""
    parts = []
    for expert, part in enumerate(rows.split(counts.tolist())):
        if part.shape[0]:
            parts.append(_swiglu(part @ gate_up[expert]) @ down[expert])
    # Without tokens the weights must still be part of the graph: DDP waits for their gradient.
    return torch.cat(parts) if parts else rows * (gate_up.sum() + down.sum()) * 0


def _grouped(rows: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Both matmuls over all experts at once, offsets on the device."""
    ends = counts.cumsum(0).to(torch.int32)
    hidden = F.grouped_mm(rows, gate_up.to(rows.dtype), offs=ends)
    return F.grouped_mm(_swiglu(hidden), down.to(rows.dtype), offs=ends)


def _dense(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Every expert on every token, weighted by zero where not chosen; no shapes from data."""
    share = torch.zeros(x.shape[0], gate_up.shape[0], dtype=x.dtype, device=x.device)
    share = share.scatter_add(1, ids, weights.to(x.dtype))
    out = torch.einsum("nd,edf->enf", x, gate_up)
    return torch.einsum("ne,enf,efd->nd", share, _swiglu(out), down)
