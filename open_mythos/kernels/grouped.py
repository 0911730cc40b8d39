"""The routed experts as one differentiable op for training: six matmul kernels, no host sync.

Everything in between (gathering tokens, SwiGLU, routing weights and their derivatives) rides in
the matmuls' loads and epilogues; only the two sums over a token's choices are kernels of their own.
No sum's order depends on timing, so results repeat bit by bit.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from open_mythos.errors import InputError
from open_mythos.kernels.grouped_backward import hidden_grad, weight_grad
from open_mythos.kernels.grouped_forward import expert_rows, sum_rows, up_rows
from open_mythos.kernels.grouped_tiles import ExpertPlan
from open_mythos.kernels.interpreter import INTERPRETED


# Rows of 16 elements start on 32 bytes, so that every load moves 16 of them at once.
ALIGNMENT = 16


@torch.library.custom_op("open_mythos::experts_forward", mutates_args=())
def experts_forward(  # noqa: PLR0913 -- an op's inputs are tensors, one by one
    x: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    order: Tensor,
    inverse: Tensor,
    ends: Tensor,
    extra: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output (N, D), and what the backward needs: gate and up (N * k, 2F), hidden (N * k, F).

    Arguments as in `fused_experts` and `ExpertPlan`; without `save` the last two are empty.
    """
    if not x.shape[0]:
        return x.clone(), x.new_empty(0, gate_up.shape[2]), x.new_empty(0, down.shape[1])
    x, weights = x.contiguous(), weights.contiguous()
    gate_up, down = gate_up.contiguous(), down.contiguous()
    extra = None if extra is None else extra.contiguous()
    plan = ExpertPlan(order, inverse, ends)
    pre, hidden = up_rows(x, weights, gate_up, plan, save=save)
    rows = expert_rows(hidden, down, ends, transposed=False)
    out = sum_rows(rows, inverse, weights.shape[1], extra)
    return out, pre, hidden if save else hidden.new_empty(0, hidden.shape[1])


@experts_forward.register_fake
def _(x: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    down, order, save = inputs[2], inputs[3], inputs[7]
    count, width = order.shape[0] if save else 0, down.shape[1]
    return x.new_empty(x.shape), x.new_empty(count, 2 * width), x.new_empty(count, width)


@torch.library.custom_op("open_mythos::experts_backward", mutates_args=())
def experts_backward(  # noqa: PLR0913 -- an op's inputs are tensors, one by one
    d_out: Tensor,
    x: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    order: Tensor,
    inverse: Tensor,
    ends: Tensor,
    pre: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weights, gate_up and down; arguments as `experts_forward` took and gave."""
    if not x.shape[0]:
        return x.clone(), weights.clone(), torch.zeros_like(gate_up), torch.zeros_like(down)
    d_out, x, weights = d_out.contiguous(), x.contiguous(), weights.contiguous()
    gate_up, down = gate_up.contiguous(), down.contiguous()
    plan, topk = ExpertPlan(order, inverse, ends), weights.shape[1]
    d_pre, d_weights = hidden_grad(d_out, weights, down, pre, plan)
    d_down = weight_grad(hidden, d_out, plan, topk, gather_first=False)
    d_x = sum_rows(expert_rows(d_pre, gate_up, ends, transposed=True), inverse, topk)
    d_gate_up = weight_grad(x, d_pre, plan, topk, gather_first=True)
    return d_x, d_weights.to(weights.dtype), d_gate_up, d_down


@experts_backward.register_fake
def _(_: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weights, gate_up, down = (t.new_empty(t.shape) for t in inputs[:4])
    return x, weights, gate_up, down


def _keep(ctx: FunctionCtx, inputs: tuple[object, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.extra = inputs[7] is not None  # type: ignore[attr-defined]
    ctx.save_for_backward(*inputs[:7], *output[1:])  # type: ignore[arg-type]


def _differentiate(ctx: FunctionCtx, d_out: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = experts_backward(d_out, *ctx.saved_tensors)  # type: ignore[attr-defined]
    return (*grads, None, None, None, d_out if ctx.extra else None, None)  # type: ignore[attr-defined]


experts_forward.register_autograd(_differentiate, setup_context=_keep)


def fused_experts(
    x: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    plan: ExpertPlan,
    extra: Tensor | None = None,
) -> Tensor:
    """Sum over each token's experts of weight * down(silu(gate(x)) * up(x)), plus `extra`.

    For many tokens an expert (training, prefill); with few of them most of each tile is empty.

    Args:
        x: (N, D) tokens, 16 or 32 bits wide.
        weights: (N, k) weight of each choice.
        gate_up: (E, D, 2F), gate in the first F columns; used in the dtype of `x`.
        down: (E, F, D), likewise.
        plan: The choices in the order of their experts.
        extra: (N, D) to add, such as the always-on experts' output; likewise.

    Returns:
        (N, D). The plain twin is `experts_reference`.

    Raises:
        InputError: If D or F is not a multiple of 16, or the kernels run on neither the device nor
            the dtype.
    """
    dim, width = down.shape[2], down.shape[1]
    if dim % ALIGNMENT or width % ALIGNMENT:
        raise InputError(
            f"fused experts need dim and expert_dim in multiples of {ALIGNMENT}, not {dim} and "
            f"{width}; use experts_backend='loop'"
        )
    if x.dtype == torch.float64 or not (x.is_cuda or INTERPRETED.value):
        raise InputError(
            f"fused experts need a CUDA device and 16 or 32 bits, not {x.device.type} and "
            f"{x.dtype}; use experts_backend='loop'"
        )
    gate_up, down = gate_up.to(x.dtype), down.to(x.dtype)
    extra = None if extra is None else extra.to(x.dtype)
    inputs = [t for t in (x, weights, gate_up, down, extra) if t is not None]
    save = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    out: Tensor = experts_forward(x, weights, gate_up, down, *plan, extra, save)[0]
    return out
