"""Run many small SwiGLU experts on the tokens routed to them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.ops.backend import ExpertsBackend, experts_backend, held, summed
from open_mythos.ops.blocks import block_experts
from open_mythos.ops.reference import experts_reference


ROWS_STEP = 32  # rows of an expert are filled up to a multiple of this where shapes cost


@dataclass(frozen=True)
class Plan:
    """The N * k choices of a routing in the order of their experts, found on the device.

    Attributes:
        order: (N * k,) int64, which choice stands at each place; choice c is token c // k.
        inverse: (N * k,) int64, the place of each choice.
        ends: (E,) int32, the place behind each expert's last choice.
        k: Choices per token.
        counts: (E,) int64, choices of each expert, where they are known already.
    """

    order: Tensor
    inverse: Tensor
    ends: Tensor
    k: int
    counts: Tensor | None = None

    @property
    def token(self) -> Tensor:
        """(N * k,) the token at each place."""
        return self.order // self.k

    @property
    def load(self) -> Tensor:
        """(E,) int64, choices of each expert."""
        if self.counts is not None:
            return self.counts
        ends = self.ends.to(torch.int64)
        return ends.diff(prepend=ends.new_zeros(1))


def plan_experts(ids: Tensor, count: int) -> Plan:
    """Sort the choices `ids` (N, k) of `count` experts, stably, without asking the host anything.

    A radix sort takes one pass per byte of its keys, so the ids are narrowed to 16 bits first.
    """
    experts, order = ids.flatten().to(torch.int16).sort(stable=True)
    places = torch.arange(order.numel(), device=ids.device)
    every = torch.arange(count, device=ids.device, dtype=torch.int16)
    return Plan(
        order=order,
        inverse=torch.empty_like(order).scatter_(0, order, places),
        ends=torch.searchsorted(experts, every, right=True, out_int32=True),
        k=ids.shape[1],
    )


def run_experts(  # noqa: PLR0913 -- the tensors of a layer
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    backend: ExpertsBackend = "auto",
    plan: Plan | None = None,
    extra: Tensor | None = None,
) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate(x)) * up(x)), plus `extra`.

    Args:
        x: (N, D) tokens.
        ids: (N, k) expert of each token and choice.
        weights: (N, k) weight of each choice.
        gate_up: (E, D, 2F), gate in the first F columns.
        down: (E, F, D).
        backend: Which implementation; "auto" picks (`experts_backend`).
        plan: Of `ids`, where it is known already.
        extra: (N, D) to add, such as the always-on experts' output.

    Returns:
        (N, D).
    """
    chosen = experts_backend(x, down.shape[0], down.shape[1], backend, choices=ids.numel())
    if chosen in _WITHOUT_PLAN:
        y = _WITHOUT_PLAN[chosen](x, ids, weights, gate_up, down)
        return y if extra is None else y + extra
    plan = plan_experts(ids, gate_up.shape[0]) if plan is None else plan
    if chosen == "fused":
        return _fused(x, weights, plan, gate_up, down, extra)
    if chosen == "blocks":
        out = _blocks(x, weights, plan, gate_up, down)
        return out if extra is None else out + extra
    rows = rows_at_places(x, plan)
    # The weight enters before `down`, so that the way back to the tokens is a plain sum.
    share = shares_at_places(weights.to(x.dtype), plan)
    mixed = (_grouped if chosen == "grouped" else _loop)(rows, share, plan, gate_up, down)
    # Under autocast the products are narrower than the stream.
    out = sums_at_tokens(mixed, plan).to(x.dtype)
    return out if extra is None else out + extra


def rows_at_places(x: Tensor, plan: Plan) -> Tensor:
    """The token (of N, D) of each choice in the order of the experts: (N * k, D)."""
    rows: Tensor = _Scatter.apply(x, plan.token, plan.inverse, plan.k)  # type: ignore[no-untyped-call]
    return rows


def shares_at_places(weights: Tensor, plan: Plan) -> Tensor:
    """The weight (of N, k) of each choice in the order of the experts: (N * k, 1)."""
    share: Tensor = _Scatter.apply(  # type: ignore[no-untyped-call]
        weights.view(-1, 1), plan.order, plan.inverse, 1
    )
    return share


def sums_at_tokens(rows: Tensor, plan: Plan) -> Tensor:
    """The sum over each token's choices of (N * k, D) in the order of the experts: (N, D)."""
    out: Tensor = _Gather.apply(rows, plan.token, plan.inverse, plan.k)  # type: ignore[no-untyped-call]
    return out


class _Scatter(torch.autograd.Function):
    """Tokens (N, D) to places (N * k, D); its backward is `_Gather`.

    Both directions read at an index. The backward that autograd would derive adds at an index
    instead: atomics on a GPU, 3 times slower and in no fixed order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(token, inverse)
        ctx.k = k
        return x.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        return _Gather.apply(grad, *ctx.saved_tensors, ctx.k), None, None, None  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """The sum over each token's places: (N * k, D) to (N, D); its backward is `_Scatter`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, token: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(token, inverse)
        ctx.k = k
        every: Tensor = rows.index_select(0, inverse).unflatten(0, (-1, k))
        return every.sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        return _Scatter.apply(grad, *ctx.saved_tensors, ctx.k), None, None, None  # type: ignore[no-untyped-call]


def _swiglu(hidden: Tensor) -> Tensor:
    gate, up = hidden.chunk(2, dim=-1)
    return F.silu(gate) * up


def _loop(rows: Tensor, share: Tensor, plan: Plan, gate_up: Tensor, down: Tensor) -> Tensor:
    """One matmul pair per expert that has tokens; the counts are read on the host."""
    parts = []
    counts = plan.load.tolist()
    # Unbound at once: the backward of taking one expert would zero and add a whole stack.
    experts = zip(
        rows.split(counts), share.split(counts), gate_up.unbind(), down.unbind(), strict=True
    )
    # A CPU's 16-bit product compiles itself anew for every number of rows, 0.7 ms each time: rows
    # are filled up with zeros to numbers that come again.
    step = ROWS_STEP if rows.device.type == "cpu" and rows.element_size() == 2 else 1
    for part, weight, up, back in experts:
        count, spare = part.shape[0], (0, 0, 0, -part.shape[0] % step)
        if count and step > 1:
            wide = _swiglu(F.pad(part, spare) @ up) * F.pad(weight, spare)
            parts.append((wide @ back)[:count])
        elif count:
            parts.append((_swiglu(part @ up) * weight) @ back)
    # Without tokens the weights must still be part of the graph: DDP waits for their gradient.
    return torch.cat(parts) if parts else rows * (gate_up.sum() + down.sum()) * 0


def _grouped(rows: Tensor, share: Tensor, plan: Plan, gate_up: Tensor, down: Tensor) -> Tensor:
    """Both matmuls over all experts at once, offsets on the device."""
    hidden = F.grouped_mm(rows, gate_up.to(rows.dtype), offs=plan.ends)
    return F.grouped_mm(_swiglu(hidden) * share, down.to(rows.dtype), offs=plan.ends)


def _narrow(x: Tensor) -> torch.dtype:
    """The dtype of products with `x`: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _blocks(x: Tensor, weights: Tensor, plan: Plan, gate_up: Tensor, down: Tensor) -> Tensor:
    """All experts' rows in blocks, one op forth and one back; counts are read on the host."""
    narrow = _narrow(x)
    out = block_experts(
        x.to(narrow),
        weights.to(narrow),
        gate_up.to(narrow),
        down.to(narrow),
        plan.order,
        plan.inverse,
        plan.ends,
    )
    return out.to(x.dtype)


def _fused(
    x: Tensor, weights: Tensor, plan: Plan, gate_up: Tensor, down: Tensor, extra: Tensor | None
) -> Tensor:
    """Six Triton matmuls forth and back with all that lies between them; offsets on the device."""
    from open_mythos.kernels.grouped import fused_experts  # noqa: PLC0415 -- triton is optional
    from open_mythos.kernels.grouped_tiles import ExpertPlan  # noqa: PLC0415 -- likewise

    # The kernels divide each index by k: in 32 bits that is a multiplication.
    own = ExpertPlan(plan.order.to(torch.int32), plan.inverse, plan.ends)
    narrow = _narrow(x)
    if narrow == x.dtype:
        return fused_experts(x, weights, gate_up, down, own, extra)
    out = fused_experts(x.to(narrow), weights, gate_up, down, own).to(x.dtype)
    return out if extra is None else out + extra


def _gathered(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Two matmuls over the choices, each with a copy of its expert; no shapes from data."""
    n, k = ids.shape
    chosen = ids.flatten()
    rows, sums = x.repeat_interleave(k, dim=0), summed(x)
    hidden = _each(rows, gate_up.index_select(0, chosen), sums=sums)
    share = weights.to(x.dtype).reshape(-1, 1)
    mixed = _each(_swiglu(hidden) * share, down.index_select(0, chosen), sums=sums)
    return mixed.view(n, k, x.shape[-1]).sum(1).to(x.dtype)


def _each(rows: Tensor, stack: Tensor, *, sums: bool) -> Tensor:
    """Row i (of M, D) through matrix i (of M, D, F)."""
    if not sums:
        return torch.bmm(rows.unsqueeze(1), stack).squeeze(1)
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    return (held(rows.to(wide)).unsqueeze(-1) * stack.to(wide)).sum(1).to(rows.dtype)


def _dense(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Every expert on every token, weighted by zero where not chosen; no shapes from data."""
    share = torch.zeros(x.shape[0], gate_up.shape[0], dtype=x.dtype, device=x.device)
    share = share.scatter_add(1, ids, weights.to(x.dtype))
    out = torch.einsum("nd,edf->enf", x, gate_up)
    return torch.einsum("ne,enf,efd->nd", share, _swiglu(out), down)


_WITHOUT_PLAN = {"reference": experts_reference, "dense": _dense, "gathered": _gathered}
