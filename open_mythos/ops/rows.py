"""What happens to one row at a time between the matmuls, and the kernels that do it in one launch.

The kernels have no gradients: they serve inference on CUDA. Training, CPU, and graphs that torch
records take the plain definitions here, which Inductor fuses by itself.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.ops.backend import HAS_TRITON as HAS_TRITON, traced
from open_mythos.ops.rotate import rotate


RowsBackend = Literal["triton", "plain"]

WIDEST = 16384  # a kernel holds a row in one block


def rows_backend(lead: Tensor, *others: Tensor | None) -> RowsBackend:
    """The implementation for these inputs.

    The kernels are picked on CUDA where no gradient is asked for and no graph is recorded, for
    16-bit and float32 rows that fit one block.
    """
    given = [lead, *(t for t in others if t is not None)]
    fits = (
        HAS_TRITON
        and lead.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and lead.shape[-1] <= WIDEST
        and all(t.is_cuda for t in given)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in given))
        and not traced()
    )
    return "triton" if fits else "plain"


def _alike(x: Tensor, y: Tensor | None) -> bool:
    return y is None or (x.dtype == y.dtype and x.shape == y.shape)


def add_norm(x: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual sum, and its RMS norm for the sub-layer that follows.

    Args:
        x: (..., D).
        y: As `x`; None where nothing is added.
        weight: (D,), cast to the dtype of `x`.
        eps: Added to the mean square.

    Returns:
        x + y, and rms_norm(x + y) * weight.
    """
    if rows_backend(x, y, weight) == "triton" and _alike(x, y):
        from open_mythos.kernels import rows  # noqa: PLC0415 -- triton is optional

        return rows.add_norm(x, y, weight, eps)
    return add_norm_plain(x, y, weight, eps)


def add_norm_plain(
    x: Tensor, y: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`add_norm` in torch."""
    total = x if y is None else x + y
    return total, F.rms_norm(total, weight.shape, weight.to(total.dtype), eps)


def sum_norm(h: Tensor, signal: Tensor | None, e: Tensor, weight: Tensor, eps: float) -> Tensor:
    """What the looped block reads: the normed sum of state, loop signal and input.

    Args:
        h: (..., D).
        signal: (D,), or as `h` where rows differ, cast to the dtype of `h`; None where the loop
            carries no index.
        e: As `h`.
        weight: (D,), cast likewise.
        eps: Added to the mean square.

    Returns:
        rms_norm(h + signal + e) * weight, as `h`.
    """
    if signal is not None and signal.dim() > 1:  # the kernel has one for all rows
        h, signal = h + signal.to(h.dtype), None
    if rows_backend(h, signal, e, weight) == "triton" and _alike(h, e):
        from open_mythos.kernels import rows  # noqa: PLC0415 -- triton is optional

        return rows.sum_norm(h, signal, e, weight, eps)
    return sum_norm_plain(h, signal, e, weight, eps)


def sum_norm_plain(
    h: Tensor, signal: Tensor | None, e: Tensor, weight: Tensor, eps: float
) -> Tensor:
    """`sum_norm` in torch; 16-bit inputs are rounded after each sum, once more than the kernel."""
    indexed = h if signal is None else h + signal.to(h.dtype)
    return add_norm_plain(indexed, e, weight, eps)[1]


def sum_norm_norm(
    h: Tensor,
    signal: Tensor | None,
    e: Tensor,
    first: tuple[Tensor, float],
    second: tuple[Tensor, float],
) -> tuple[Tensor, Tensor]:
    """What the looped block reads, and the norm of it that its attention reads.

    Args:
        h: (..., D).
        signal: (D,), or as `h` where rows differ, cast to the dtype of `h`; or None.
        e: As `h`.
        first: Weight (D,) of the norm of the sum, and what is added to the mean square.
        second: Likewise of the norm of that.

    Returns:
        `sum_norm` of the sum, and its norm, as `h`.
    """
    if signal is not None and signal.dim() > 1:  # the kernel has one for all rows
        h, signal = h + signal.to(h.dtype), None
    if rows_backend(h, signal, e, first[0], second[0]) == "triton" and _alike(h, e):
        from open_mythos.kernels import rows  # noqa: PLC0415 -- triton is optional

        return rows.sum_norm_norm(h, signal, e, first, second)
    return sum_norm_norm_plain(h, signal, e, first, second)


def sum_norm_norm_plain(
    h: Tensor,
    signal: Tensor | None,
    e: Tensor,
    first: tuple[Tensor, float],
    second: tuple[Tensor, float],
) -> tuple[Tensor, Tensor]:
    """`sum_norm_norm` in torch."""
    x = sum_norm_plain(h, signal, e, *first)
    return x, add_norm_plain(x, None, *second)[1]


# Norms below this are those of nothing: a state of zeros has not moved by infinitely much.
TINY = 1e-12


def relative_change(after: Tensor, before: Tensor) -> Tensor:
    """|after - before| / |after| of each row (..., D), (...) in float32 or wider."""
    if rows_backend(after, before) == "triton" and _alike(after, before):
        from open_mythos.kernels import rows  # noqa: PLC0415 -- triton is optional

        return rows.relative_change(after, before, TINY)
    return relative_change_plain(after, before)


def relative_change_plain(after: Tensor, before: Tensor) -> Tensor:
    """`relative_change` in torch."""
    wide = torch.float64 if after.dtype == torch.float64 else torch.float32
    size = torch.linalg.vector_norm(after.to(wide), dim=-1).clamp(min=TINY)
    moved: Tensor = torch.linalg.vector_norm(after.to(wide) - before.to(wide), dim=-1) / size
    return moved


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a fused projection (..., 2F), the gate first; (..., F)."""
    if rows_backend(gate_up[..., :1]) == "triton":  # rows are cut: any width will do
        from open_mythos.kernels import rows  # noqa: PLC0415 -- triton is optional

        return rows.swiglu(gate_up)
    return swiglu_plain(gate_up)


def swiglu_plain(gate_up: Tensor) -> Tensor:
    """`swiglu` in torch; 16-bit inputs are rounded after silu, once more than the kernel."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate`, in one launch where the kernel can; its result is contiguous.

    Args:
        x: (B, S, H, d), d even; may be a slice of a fused projection.
        cos: (S, d/2) or (B, S, d/2), float32.
        sin: As `cos`.

    Returns:
        (B, S, H, d).
    """
    if rows_backend(x, cos, sin) == "triton":
        from open_mythos.kernels import rows  # noqa: PLC0415 -- triton is optional

        return rows.rotate_heads(x, cos, sin)
    return rotate(x, cos, sin)
