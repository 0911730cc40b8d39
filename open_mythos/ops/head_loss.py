"""The head and its loss in one: cross entropy of features against a vocabulary, in row chunks.

The logits of a training step are its largest tensor by far (32768 positions x 32000 words: 2 GB in
bfloat16, 4 GB in float32, and as much again for the gradient). Here a chunk's logits live only
until its loss and gradients are formed.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from open_mythos.errors import InputError, ShapeError
from open_mythos.ops.backend import HAS_TRITON, traced


HeadLossBackend = Literal["auto", "chunked", "dense", "torch", "reference"]

CHUNK_BYTES = 512 * 2**20
CHUNK_ROWS_LEAST = 1024


@dataclass(frozen=True)
class HeadLoss:
    """What the head's predictions cost, as means over the scored positions; zeros if there is none.

    Where rows have weights, each row's cost is multiplied by its own; the mean is over as many.

    Attributes:
        total: cross_entropy + weight x z_loss, what is differentiated; a scalar in float32 or
            wider, like the parts.
        cross_entropy: In nats; without gradient.
        z_loss: Mean squared log-sum-exp, before its weight, without gradient; None if not asked.
        correct: Scored positions at which no logit exceeds the target's, int64; ties count. None
            from the backend that cannot tell.
        n_targets: Scored positions, int64, on the device.
    """

    total: Tensor
    cross_entropy: Tensor
    z_loss: Tensor | None
    correct: Tensor | None
    n_targets: Tensor


class VocabularyPart(Protocol):
    """What a part of the vocabulary asks of the others."""

    def score(
        self, logits: Tensor, targets: Tensor, *, z_loss: float, ignore_index: int, gradient: bool
    ) -> Tensor:
        """`score_rows_plain` of all parts together, from this part's logits (rows, V / parts)."""
        ...

    def joined(self, slopes: Tensor) -> Tensor:
        """The sum over the parts of what each says about the features' gradient."""
        ...


@dataclass(frozen=True)
class _Plan:
    """How to walk the rows, and which gradients to bring back."""

    chunk: int
    z_loss: float
    ignore_index: int
    features_slope: bool
    weight_slope: bool
    part: VocabularyPart | None = None


def default_chunk(vocab: int, dtype: torch.dtype) -> int:
    """Rows whose logits take at most 512 MiB, a power of two, and at least 1024.

    Fewer would leave matmul throughput unused; a chunk of 1024 exceeds 512 MiB only for
    vocabularies past 262144 in 16 bits.
    """
    rows = CHUNK_BYTES // (vocab * dtype.itemsize)
    return max(CHUNK_ROWS_LEAST, 1 << max(rows.bit_length() - 1, 0))


def head_loss(  # noqa: PLR0913 -- what a loss is of, and how it is walked
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    chunk: int | None = None,
    backend: HeadLossBackend = "auto",
    weights: Tensor | None = None,
) -> HeadLoss:
    """Cross entropy of `features @ weight.T` against `targets`, without a host sync.

    Logits are formed in the features' dtype, everything after them in float32 or wider. A target
    outside the vocabulary raises on the CPU and gives a NaN loss from the CUDA kernel.

    Args:
        features: (N, D).
        weight: (V, D); another dtype than the features' is cast to theirs.
        targets: (N,) int64.
        ignore_index: Target of positions that are not scored.
        z_loss: Weight of the mean squared log-sum-exp in the total.
        chunk: Rows at a time; None is `default_chunk`.
        backend: auto is chunked, and dense where torch records a graph. chunked keeps no logits:
            it forms the gradients in the forward pass, so that backward only scales them. dense
            holds all logits. torch is `F.linear_cross_entropy`, which has neither z-loss nor hits.
            reference computes all in float32.
        weights: (N,) float32 or wider, which the rows' costs are multiplied by, and which get a
            gradient too; None is one for all.

    Raises:
        ShapeError: If the shapes do not fit.
        InputError: If `chunk`, `targets` or `backend` is not one that can be run.
    """
    _check(features, weight, targets, chunk, weights)
    if backend not in get_args(HeadLossBackend):
        raise InputError(f"head_loss backend is one of {get_args(HeadLossBackend)}, not {backend}")
    if backend == "auto":
        backend = "dense" if traced() else "chunked"
    z_loss = float(z_loss)
    if backend == "torch":
        if weights is not None:
            raise InputError("F.linear_cross_entropy has no weights of rows; use backend='chunked'")
        return _torch(features, weight, targets, ignore_index, z_loss)
    if backend in ("dense", "reference"):
        wide = _wide(features.dtype) if backend == "reference" else features.dtype
        how = (ignore_index, z_loss)
        return _dense(features.to(wide), weight.to(wide), targets, *how, weights)
    return _chunked(features, weight, targets, (chunk, z_loss, ignore_index), None, weights)


def head_loss_of_part(  # noqa: PLR0913 -- as `head_loss`
    part: VocabularyPart,
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    chunk: int | None = None,
    weights: Tensor | None = None,
) -> HeadLoss:
    """`head_loss`, chunked, where this process holds only some rows of the head.

    Args:
        part: The others.
        features: (N, D), the same in every process.
        weight: (V / parts, D), this process's rows.
        targets: (N,) int64, in the whole vocabulary, the same in every process.
        ignore_index: As in `head_loss`.
        z_loss: As in `head_loss`.
        chunk: As in `head_loss`.
        weights: As in `head_loss`.

    Returns:
        Every process the loss over the whole vocabulary; the gradient of its own rows.
    """
    _check(features, weight, targets, chunk, weights)
    return _chunked(features, weight, targets, (chunk, float(z_loss), ignore_index), part, weights)


def _chunked(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    how: tuple[int | None, float, int],
    part: VocabularyPart | None,
    weights: Tensor | None,
) -> HeadLoss:
    learns = torch.is_grad_enabled()
    chunk, z_loss, ignore_index = how
    plan = _Plan(
        chunk=chunk or default_chunk(weight.shape[0], features.dtype),
        z_loss=z_loss,
        ignore_index=ignore_index,
        features_slope=learns and features.requires_grad,
        weight_slope=learns and weight.requires_grad,
        part=part,
    )
    total, ce, z, correct, n = _Chunked.apply(  # type: ignore[no-untyped-call]
        features, weight, targets, plan, weights
    )
    return HeadLoss(total, ce, z if z_loss else None, correct, n)


def score_rows_plain(
    logits: Tensor, targets: Tensor, *, z_loss: float, ignore_index: int, gradient: bool
) -> Tensor:
    """What each row of logits costs; with `gradient`, its slope is written over the logits.

    The slope of row n is that of lse - logit[target] + z_loss x lse^2: the caller divides by the
    number of scored rows afterwards, so that 16-bit slopes lie in [-1, 1] and do not underflow.

    Args:
        logits: (rows, V).
        targets: (rows,) int64.
        z_loss: Weight of the squared log-sum-exp.
        ignore_index: Target of rows that are not scored; their slopes are zero.
        gradient: Whether to form the slopes.

    Returns:
        (3, rows) in float32 or wider: log-sum-exp, target's logit, largest logit; zeros where not
        scored.
    """
    scored = targets != ignore_index
    at = torch.where(scored, targets, 0).unsqueeze(-1)
    wide = logits.to(_wide(logits.dtype))
    lse = wide.logsumexp(-1)
    scores = torch.stack((lse, wide.gather(-1, at).squeeze(-1), wide.amax(-1)))
    if gradient:
        slopes = wide.sub_(lse.unsqueeze(-1)).exp_().mul_((1 + 2 * z_loss * lse).unsqueeze(-1))
        slopes.scatter_add_(-1, at, -torch.ones_like(at, dtype=slopes.dtype))
        slopes.masked_fill_(~scored.unsqueeze(-1), 0)
        if slopes is not logits:
            logits.copy_(slopes)
    return scores.masked_fill(~scored, 0)


class _Chunked(torch.autograd.Function):
    """The loss with its gradients formed on the way; backward multiplies by the upstream scalar."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        plan: _Plan,
        weights: Tensor | None,
    ) -> tuple[Tensor, ...]:
        # The dtypes here are chosen; an autocast around the call shall not choose others.
        with torch.autocast(features.device.type, enabled=False):
            scores, d_features, d_weight = _sweep(features, weight, targets, plan, weights)
        scored = targets != plan.ignore_index
        n = scored.sum()
        lse, hit, top = scores
        share = 1.0 / n.clamp(min=1).to(lse.dtype)
        costs, squares, d_weights = lse - hit, lse.square(), None
        if weights is not None:
            d_weights = (costs + plan.z_loss * squares).to(weights.dtype)
            costs, squares = costs * weights, squares * weights
        ce, z = costs.sum() * share, squares.sum() * share
        total = ce + plan.z_loss * z if plan.z_loss else ce.clone()
        correct = ((hit >= top) & scored).sum()
        ctx.save_for_backward(d_features, d_weight, share, d_weights)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(ce, z, correct, n)
        return total, ce, z, correct, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_weight, share, d_weights = ctx.saved_tensors
        factor = (upstream * share).reshape(1)  # of one axis: a 0-dim factor would become 16-bit
        if d_features is not None:
            d_features = torch.mul(d_features, factor, out=torch.empty_like(d_features))
        if d_weight is not None:
            out = torch.empty_like(d_weight, dtype=ctx.weight_dtype)
            d_weight = torch.mul(d_weight, factor, out=out)
        d_weights = None if d_weights is None else d_weights * factor.to(d_weights.dtype)
        return d_features, d_weight, None, None, d_weights


def _sweep(
    features: Tensor, weight: Tensor, targets: Tensor, plan: _Plan, weights: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The rows' scores (3, N), and the undivided gradients that the plan asks for.

    The weight's gradient is summed in float32 or wider, which takes 4 V D bytes until backward.
    """
    matrix, wide = weight.to(features.dtype), _wide(features.dtype)
    targets = targets.contiguous()
    d_features = torch.empty_like(features) if plan.features_slope else None
    d_weight = torch.zeros_like(weight, dtype=wide) if plan.weight_slope else None
    score = partial(
        scorer(features) if plan.part is None else plan.part.score,
        z_loss=plan.z_loss,
        ignore_index=plan.ignore_index,
        gradient=plan.features_slope or plan.weight_slope,
    )
    rows = features.shape[0]
    logits = features.new_empty(min(plan.chunk, rows), weight.shape[0])
    scores = [torch.empty(3, 0, dtype=wide, device=features.device)]
    for start in range(0, rows, plan.chunk):
        part = slice(start, min(start + plan.chunk, rows))
        x, slopes = features[part], logits[: part.stop - start]
        torch.mm(x, matrix.t(), out=slopes)
        scores.append(score(slopes, targets[part]))
        if weights is not None:
            slopes.mul_(weights[part].unsqueeze(-1))
        if d_features is not None:
            torch.mm(slopes, matrix, out=d_features[part])
        if d_weight is not None:
            _accumulate(d_weight, slopes.t(), x)
    if d_features is not None and plan.part is not None:
        d_features = plan.part.joined(d_features)
    return torch.cat(scores, dim=-1), d_features, d_weight


def scorer(features: Tensor) -> Any:
    """What scores a block of logits of `features`: the kernel, or `score_rows_plain`."""
    if HAS_TRITON and features.is_cuda and features.dtype != torch.float64:
        from open_mythos.kernels.cross_entropy import (  # noqa: PLC0415 -- triton is optional
            score_rows,
        )

        return score_rows
    return score_rows_plain


def _accumulate(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, which may be wider than the factors.

    On CUDA the matmul adds to the float32 sum itself. Elsewhere a 16-bit product is rounded once
    before it is added: an error of 2^-9 of the chunk's share, as in a 16-bit gradient.
    """
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


def _dense(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    z_loss: float,
    weights: Tensor | None,
) -> HeadLoss:
    logits = F.linear(features, weight)
    logits = logits.to(_wide(logits.dtype))
    scored = targets != ignore_index
    n = scored.sum()
    share = 1.0 / n.clamp(min=1).to(logits.dtype)
    by, kind = (scored, "sum") if weights is None else (scored * weights, "none")
    costs = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction=kind)
    ce = share * (costs if weights is None else (costs * weights).sum())
    z = share * (logits.logsumexp(-1).square() * by).sum() if z_loss else None
    with torch.no_grad():
        hit = logits.gather(-1, torch.where(scored, targets, 0).unsqueeze(-1)).squeeze(-1)
        correct = ((hit >= logits.amax(-1)) & scored).sum()
    total = ce if z is None else ce + z_loss * z
    return HeadLoss(total, ce.detach(), None if z is None else z.detach(), correct, n)


def _torch(
    features: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, z_loss: float
) -> HeadLoss:
    native = getattr(F, "linear_cross_entropy", None)  # torch 2.13 and later
    if native is None or z_loss:
        what = "has no z-loss" if native is not None else f"is not in torch {torch.__version__}"
        raise InputError(f"F.linear_cross_entropy {what}; use backend='chunked'")
    n = (targets != ignore_index).sum()
    total = native(
        features,
        weight.to(features.dtype),
        targets,
        ignore_index=ignore_index,
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(),
    )
    total = total.to(_wide(features.dtype)) / n.clamp(min=1)
    return HeadLoss(total, total.detach(), None, None, n)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk: int | None,
    weights: Tensor | None,
) -> None:
    shapes = tuple(features.shape), tuple(weight.shape), tuple(targets.shape)
    fits = (
        features.dim() == weight.dim() == 2
        and features.shape[1] == weight.shape[1]
        and targets.shape == features.shape[:1]
        and (weights is None or weights.shape == targets.shape)
    )
    if not fits:
        raise ShapeError(
            f"head_loss takes features (N, D), weight (V, D) and targets (N,), not {shapes}"
            + ("" if weights is None else f" with weights (N,) {tuple(weights.shape)}")
        )
    if targets.dtype != torch.int64:
        raise InputError(f"targets are {targets.dtype}; they must be torch.int64")
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk is {chunk}; it must be at least 1, or None for the default")
