"""What is done with a fused projection: queries and keys turned, gate and up multiplied.

The functions are those of `rotate` and `swiglu`; in training on CUDA their gradient, which is as
wide as the projection, is written in one pass instead of being joined from parts. Latent
attention's heads, of which a part is turned or shared, are written in one pass forth as well.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from open_mythos.ops import rows
from open_mythos.ops.backend import traced


KINDS = (torch.bfloat16, torch.float16, torch.float32)
# Rows from which a weight laid out anew for a call costs less than what it saves: 3 MB written
# against 4 kB a row, and two launches.
MANY_ROWS = 4096

HeadsBackend = Literal["in place", "triton", "plain"]


def one_pass(lead: Tensor) -> bool:
    """Whether the gradient of `lead` is asked for and a kernel can write it."""
    asked = torch.is_grad_enabled() and lead.requires_grad
    return rows.HAS_TRITON and asked and lead.is_cuda and lead.dtype in KINDS


def whole_heads(lead: Tensor, *others: Tensor) -> bool:
    """Whether kernels write heads of two parts and their gradients, also where torch compiles."""
    alike = all(t.is_cuda and t.dtype == lead.dtype for t in others)
    return rows.HAS_TRITON and lead.is_cuda and lead.dtype in KINDS and alike


def heads_backend(lead: Tensor, *others: Tensor) -> HeadsBackend:
    """How the heads of latent attention are formed from `lead` (..., r), their normed latent.

    In long prompts on a GPU the projection is made with room for what is turned or shared, which
    is then written in place; elsewhere the parts are joined, by a kernel or by torch.
    """
    if rows.rows_backend(lead, *others) == "triton" and math.prod(lead.shape[:-1]) >= MANY_ROWS:
        return "in place"  # asked last: in a graph that torch records a length may be a symbol
    return "triton" if whole_heads(lead, *others) else "plain"


def turn_qkv(
    qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys of a fused projection, turned, and its values.

    Args:
        qkv: (B, T, (heads + 2 * kv_heads) * d), d even.
        cos: (T, d/2) or (B, T, d/2), float32.
        sin: As `cos`.
        heads: Of the queries.
        kv_heads: Of the keys, and of the values.

    Returns:
        (B, T, heads, d) and twice (B, T, kv_heads, d); the values may be a view.
    """
    # Of float32, torch 2.11 loses the gradient of queries and keys where it records this function
    # (it came back zero on an H100, eager and 16-bit gradients being right): what forward returns
    # are then views of what it computed. Inductor fuses the definition.
    if one_pass(qkv) and not (traced() and qkv.dtype == torch.float32):
        turned = _TurnQkv.apply(qkv, cos, sin, heads, kv_heads)  # type: ignore[no-untyped-call]
        q, k, v = turned
        return q, k, v
    return _turn_qkv(qkv, cos, sin, heads, kv_heads)


def turn_queries(joint: Tensor, cos: Tensor, sin: Tensor, heads: int, still: int) -> Tensor:
    """Queries of which the first `still` channels of a head stay, and the others are turned.

    Args:
        joint: (B, T, heads * still + heads * d), d even: all that stays, then all that turns.
        cos: (T, d/2) or (B, T, d/2), float32.
        sin: As `cos`.
        heads: Of the queries.
        still: Channels of a head that stay.

    Returns:
        (B, T, heads, still + d).
    """
    if whole_heads(joint):
        turned: Tensor = _TurnQueries.apply(  # type: ignore[no-untyped-call]
            joint, cos, sin, heads, still
        )
        return turned
    return turn_queries_plain(joint, cos, sin, heads, still)


def turn_queries_plain(joint: Tensor, cos: Tensor, sin: Tensor, heads: int, still: int) -> Tensor:
    """`turn_queries` in torch."""
    first, second = joint.split([heads * still, joint.shape[-1] - heads * still], dim=-1)
    turned = rows.rotate_heads(second.unflatten(-1, (heads, -1)), cos, sin)
    return torch.cat((first.unflatten(-1, (heads, still)), turned), dim=-1)


def join_keys(joint: Tensor, shared: Tensor, heads: int, still: int) -> tuple[Tensor, Tensor]:
    """Keys that end in what all heads share, and values, from their joint projection.

    Args:
        joint: (B, S, heads * (still + f)): key and value beside each other, head after head.
        shared: (B, S, p), turned already.
        heads: Of keys and values.
        still: Channels of a key before the shared ones.

    Returns:
        (B, S, heads, still + p), and (B, S, heads, f), which may be a view.
    """
    if whole_heads(joint, shared):
        k, v = _JoinKeys.apply(joint, shared, heads, still)  # type: ignore[no-untyped-call]
        return k, v
    return join_keys_plain(joint, shared, heads, still)


def join_keys_plain(joint: Tensor, shared: Tensor, heads: int, still: int) -> tuple[Tensor, Tensor]:
    """`join_keys` in torch."""
    every = joint.unflatten(-1, (heads, -1))
    k, v = every.split([still, every.shape[-1] - still], dim=-1)
    last = shared.unsqueeze(2).expand(-1, -1, heads, -1)
    return torch.cat((k, last), dim=-1), v


def turn_ends(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the last channels of every head where they lie; without gradients.

    Args:
        heads: (B, T, H, n + p), contiguous, changed in place; p is even.
        cos: (T, p/2) or (B, T, p/2), float32.
        sin: As `cos`.

    Returns:
        `heads`.
    """
    if rows.rows_backend(heads, cos, sin) == "triton":
        from open_mythos.kernels import heads as kernels  # noqa: PLC0415 -- triton is optional

        return kernels.turn_ends(heads, cos, sin)
    return turn_ends_plain(heads, cos, sin)


def turn_ends_plain(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`turn_ends` in torch."""
    ends = heads[..., heads.shape[-1] - 2 * cos.shape[-1] :]
    ends.copy_(rows.rotate_heads(ends, cos, sin))
    return heads


def put_ends(heads: Tensor, shared: Tensor, at: int) -> Tensor:
    """Write what all heads share into each, where a projection left room; without gradients.

    Args:
        heads: (B, S, H, w), contiguous, changed in place.
        shared: (B, S, p), turned already.
        at: The first of the p channels of a head that are written.

    Returns:
        `heads`.
    """
    if heads.dtype == shared.dtype and rows.rows_backend(heads, shared) == "triton":
        from open_mythos.kernels import heads as kernels  # noqa: PLC0415 -- triton is optional

        return kernels.put_ends(heads, shared, at)
    return put_ends_plain(heads, shared, at)


def put_ends_plain(heads: Tensor, shared: Tensor, at: int) -> Tensor:
    """`put_ends` in torch."""
    heads[..., at : at + shared.shape[-1]] = shared.unsqueeze(2)
    return heads


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a fused projection (..., 2F), the gate first; (..., F)."""
    if one_pass(gate_up):
        out: Tensor = _Swiglu.apply(gate_up)  # type: ignore[no-untyped-call]
        return out
    return rows.swiglu(gate_up)


def _turn_qkv(
    qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    every = qkv.unflatten(-1, (heads + 2 * kv_heads, -1))
    q, k, v = every.split([heads, kv_heads, kv_heads], dim=2)
    return rows.rotate_heads(q, cos, sin), rows.rotate_heads(k, cos, sin), v


class _TurnQkv(torch.autograd.Function):
    """`_turn_qkv` with its gradient in one pass; the forward is left to a compiler to fuse."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return _turn_qkv(qkv, cos, sin, heads, kv_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from open_mythos.kernels.projections import join_turned  # noqa: PLC0415 -- optional triton

        cos, sin = ctx.saved_tensors
        joined: Tensor = join_turned(list(grads), [True, True, False], cos, sin)
        return joined, None, None, None, None


class _TurnQueries(torch.autograd.Function):
    """`turn_queries`, one pass each way."""

    @staticmethod
    def forward(
        ctx: Any, joint: Tensor, cos: Tensor, sin: Tensor, heads: int, still: int
    ) -> Tensor:
        from open_mythos.kernels.heads import join_heads  # noqa: PLC0415 -- triton is optional

        ctx.save_for_backward(cos, sin)
        ctx.still = still
        first, second = joint.split([heads * still, joint.shape[-1] - heads * still], dim=-1)
        parts = (part.unflatten(-1, (heads, -1)) for part in (first, second))
        out: Tensor = join_heads(*parts, cos, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from open_mythos.kernels.projections import join_turned  # noqa: PLC0415 -- optional triton

        cos, sin = ctx.saved_tensors
        parts = [grads[0][..., : ctx.still], grads[0][..., ctx.still :]]
        joined: Tensor = join_turned(parts, [False, True], cos, sin)
        return joined, None, None, None, None


class _JoinKeys(torch.autograd.Function):
    """`join_keys`, one pass each way; the values are a view."""

    @staticmethod
    def forward(
        ctx: Any, joint: Tensor, shared: Tensor, heads: int, still: int
    ) -> tuple[Tensor, Tensor]:
        from open_mythos.kernels.heads import join_heads  # noqa: PLC0415 -- triton is optional

        ctx.shared = shared.shape[-1]
        every = joint.unflatten(-1, (heads, -1))
        k: Tensor = join_heads(every[..., :still], shared.unsqueeze(2), None, None)
        return k, every[..., still:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from open_mythos.kernels.heads import split_keys  # noqa: PLC0415 -- triton is optional

        return *split_keys(*grads, ctx.shared), None, None


class _Swiglu(torch.autograd.Function):
    """`swiglu`, likewise."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return rows.swiglu(gate_up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        from open_mythos.kernels.projections import swiglu_grad  # noqa: PLC0415 -- optional triton

        (gate_up,) = ctx.saved_tensors
        out: Tensor = swiglu_grad(grads[0], gate_up)
        return out
