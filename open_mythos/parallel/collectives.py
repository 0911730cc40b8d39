"""Sums and copies over a tensor axis, with the gradients that go with them.

Where every rank computes the same on the same rows, and only some products are divided, what enters
a divided product is copied and what leaves it is summed (Shoeybi et al. 2019, arXiv 1909.08053). On
the way back it is the other way round.
"""

from typing import Any

import torch
from torch import Tensor

from open_mythos.parallel.mesh import Axis


def total(x: Tensor, axis: Axis) -> Tensor:
    """The sum over the axis, in a tensor of its own; may be recorded in a compiled graph."""
    ops = torch.ops._c10d_functional
    summed: Tensor = ops.wait_tensor(ops.all_reduce(x.contiguous(), "sum", axis.group.group_name))
    return summed


def copied(x: Tensor, axis: Axis) -> Tensor:
    """The same on every rank; each rank's gradient is a part of the whole one."""
    out: Tensor = _Copied.apply(x, axis)  # type: ignore[no-untyped-call]
    return out


def reduced(x: Tensor, axis: Axis) -> Tensor:
    """The sum of every rank's `x`, which is the same on every rank from here on."""
    out: Tensor = _Reduced.apply(x, axis)  # type: ignore[no-untyped-call]
    return out


def side_by_side(x: Tensor, axis: Axis) -> Tensor:
    """Every rank's `x` (..., n), one beside the other: (..., ranks * n)."""
    out: Tensor = _SideBySide.apply(x, axis)  # type: ignore[no-untyped-call]
    return out


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return total(grads[0], ctx.axis), None


class _Reduced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:  # noqa: ARG004
        return total(x, axis)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grads[0], None


class _SideBySide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis, ctx.width = axis, x.shape[-1]
        ops = torch.ops._c10d_functional
        flat = x.contiguous().unsqueeze(0)
        gathered: Tensor = ops.wait_tensor(
            ops.all_gather_into_tensor(flat, axis.size, axis.group.group_name)
        )
        return torch.cat(gathered.unbind(0), dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].narrow(-1, ctx.axis.rank * ctx.width, ctx.width), None
