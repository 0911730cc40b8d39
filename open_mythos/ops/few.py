"""The products of a decoding step: few rows, so that reading the weights is all that takes time.

The kernels have no gradients: they serve inference on CUDA. Training, CPU, graphs that torch
records and more rows take the plain definitions here. Everything can be captured in a CUDA graph.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.ops.backend import HAS_TRITON, capturing, held, plain, summed, traced
from open_mythos.ops.experts import run_experts
from open_mythos.ops.projections import swiglu
from open_mythos.ops.routing import route_plain


# Rows up to which each kernel is picked.
LINEAR_ROWS = 1
SWIGLU_ROWS = 16
EXPERT_ROWS = 64


def few_rows(x: Tensor, *weights: Tensor | None, most: int = LINEAR_ROWS) -> bool:
    """Whether the kernels run for these rows: 1 to `most` of them, inference, CUDA, one dtype.

    Args:
        x: (..., D).
        weights: All else that is read, contiguous; None for what is absent.
        most: Rows, all leading dimensions together, up to which the kernel is the better choice.
    """
    given = [x, *(w for w in weights if w is not None)]
    return (
        HAS_TRITON
        and x.is_cuda
        and 0 < x.numel() <= most * x.shape[-1]
        and x.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and all(t.is_cuda and t.dtype == x.dtype for t in given)
        and all(w.is_contiguous() for w in given[1:])
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in given))
        and not torch.is_autocast_enabled("cuda")
        and not traced()
    )


def _settled(weight: Tensor) -> bool:
    """Whether the kernel before cannot have written `weight`: a parameter in a captured step.

    A weight that a step derives (a cast, a product) is written in it, maybe right before.
    """
    whole = weight if weight._base is None else weight._base
    return isinstance(whole, nn.Parameter) and capturing()


def linear(x: Tensor, weight: Tensor, plus: Tensor | None = None) -> Tensor:
    """The product x @ weight.T, and what is added to it.

    Args:
        x: (..., in).
        weight: (out, in).
        plus: (..., out), or None.

    Returns:
        (..., out). The kernel adds `plus` before it rounds, `linear_plain` after.
    """
    if not plain(weight):  # quantised: its own class multiplies
        out = F.linear(x, weight)
        return out if plus is None else out + plus
    if few_rows(x, weight, plus):
        from open_mythos.kernels.few_linear import few_linear  # noqa: PLC0415 -- triton is optional

        rows = x.reshape(-1, x.shape[-1]).contiguous()
        added = None if plus is None else plus.reshape(-1, weight.shape[0])
        out = few_linear(rows, weight, added, eager=_settled(weight))
        return out.view(*x.shape[:-1], weight.shape[0])
    return linear_plain(x, weight, plus)


def linear_plain(
    x: Tensor, weight: Tensor, plus: Tensor | None = None, *, spare: bool = False
) -> Tensor:
    """`linear` in torch; a `spare` tensor to add is overwritten where nobody can notice."""
    if plus is not None and spare and overwritable(plus, x, weight):
        return onto(plus, x, weight.t())
    out = summed_linear(x, weight) if summed(x) else F.linear(x, weight)
    return out if plus is None else out + plus


def overwritable(total: Tensor, *factors: Tensor) -> bool:
    """Whether a product may add itself to a `total` that is not read again.

    No gradient, no recorded graph, one dtype; where it may, two passes over memory are saved.
    """
    return (
        not torch.is_grad_enabled()
        and not traced()
        and total.is_contiguous()
        and all(t.dtype == total.dtype for t in factors)
        and not torch.is_autocast_enabled(total.device.type)
    )


def plus_product(total: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """The sum of `total` (..., out) and x (..., in) @ matrix (in, out).

    `total` is overwritten where no gradient is asked for: it must be the caller's own.
    """
    if overwritable(total, x, matrix):
        return onto(total, x, matrix)
    if summed(total):
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        added = (held(x.to(wide)).unsqueeze(-1) * matrix.to(wide)).sum(-2)
        return (total + added).to(total.dtype)
    rows = total.flatten(0, -2)
    return torch.addmm(rows, x.flatten(0, -2), matrix).view(total.shape)


def onto(total: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """`total` (..., out) with x (..., in) @ matrix (in, out) added to it, in place."""
    rows = total.view(-1, total.shape[-1])
    torch.addmm(rows, x.reshape(-1, x.shape[-1]), matrix, out=rows)
    return total


def summed_linear(x: Tensor, weight: Tensor) -> Tensor:
    """X @ weight.T as a sum of products, in float32 or wider: what `summed` rows take.

    Args:
        x: (..., in).
        weight: (out, in).

    Returns:
        (..., out).
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (held(x.to(wide)).unsqueeze(-2) * weight.to(wide)).sum(-1).to(x.dtype)


def feed_forward(
    x: Tensor, gate_up: Tensor, down: Tensor, plus: Tensor | None = None, *, spare: bool = False
) -> Tensor:
    """down(silu(gate(x)) * up(x)), and what is added to it.

    Args:
        x: (..., D).
        gate_up: (2W, D), the gate in the first W rows.
        down: (D, W).
        plus: (..., D), or None.
        spare: Whether `plus` may be overwritten.

    Returns:
        (..., D).
    """
    if few_rows(x, gate_up, down, plus, most=SWIGLU_ROWS):
        from open_mythos.kernels.few_linear import few_swiglu  # noqa: PLC0415 -- triton is optional

        rows = x.reshape(-1, x.shape[-1]).contiguous()
        added = None if plus is None else plus.reshape(rows.shape)
        return few_swiglu(rows, gate_up, down, added, eager=_settled(gate_up)).view(x.shape)
    return feed_forward_plain(x, gate_up, down, plus, spare=spare)


def feed_forward_plain(
    x: Tensor, gate_up: Tensor, down: Tensor, plus: Tensor | None = None, *, spare: bool = False
) -> Tensor:
    """`feed_forward` by two products and what `ops.rows` picks between them."""
    return linear_plain(swiglu(linear_plain(x, gate_up)), down, plus, spare=spare)


def moe_few(
    x: Tensor,
    logits: Tensor,
    bias: Tensor,
    k: int,
    gate_up: Tensor,
    down: Tensor,
    plus: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Route the rows and run their experts.

    Args:
        x: (N, D).
        logits: (N, E) router scores.
        bias: (E,) float32, moves the choice and stays out of the weights.
        k: Experts per row.
        gate_up: (E, D, 2F), gate in the first F columns.
        down: (E, F, D).
        plus: (N, D) added to the output, or None.

    Returns:
        Output (N, D), ids (N, k) int64 and load (E,) int64, rows per expert.
    """
    fits = few_rows(x, logits, gate_up, down, plus, most=EXPERT_ROWS)
    if fits and bias.is_cuda and bias.is_contiguous():
        from open_mythos.kernels.few_experts import (  # noqa: PLC0415 -- triton is optional
            few_experts,
        )

        return few_experts(x.contiguous(), logits, bias, k, gate_up, down, plus)
    return moe_few_plain(x, logits, bias, k, gate_up, down, plus)


def moe_few_plain(
    x: Tensor,
    logits: Tensor,
    bias: Tensor,
    k: int,
    gate_up: Tensor,
    down: Tensor,
    plus: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`moe_few` in torch; no value is read on the host but by the experts' loop on a CPU."""
    routing = route_plain(logits, bias, k)
    out = run_experts(x, routing.ids, routing.weights, gate_up, down, plan=routing.plan, extra=plus)
    return out, routing.ids, routing.load
