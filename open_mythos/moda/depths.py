"""Sequence keys and depth keys under one softmax, without a matrix of scores.

A query sees the keys of its sequence, which all queries share, and the keys that earlier layers
wrote at its own position, which no other query sees. The second kind is few: their scores are
formed, and reach the kernel of the first kind as one more key, whose score is the logarithm of
their mass. The softmax over all of that is the joint one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from open_mythos.ops.attend import attend


SPARE = 8  # channels added to a head: kernels want widths in steps of 8
PIECES = 3  # numbers of 8 bits' precision that hold one of 24


def attend_depths(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Mix the values of sequence and depth by one softmax of the query's products.

    The queries stand at the end of the sequence, so a chunk after a cache is causal.

    Args:
        q: (B, T, H, d).
        k: (B, S, K, d), K dividing H.
        v: (B, S, K, d).
        keys: n of (B, T, K, d), seen by the query of the same position alone.
        values: n of (B, T, K, d).
        dropout: Share of weights dropped; the depth of a position is dropped as one.

    Returns:
        (B, T, H, d).
    """
    if not keys:
        return attend(q, k, v, dropout=dropout)
    if q.shape[1] == 1 and dropout == 0.0:
        return attend_one(q, k, v, keys, values)
    # The stack of what was written, n times a layer's keys, is not kept for the way back.
    mass, mixed = (
        checkpoint(look_down, q, keys, values, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else look_down(q, keys, values)
    )
    whole = q.shape[1] == k.shape[1]
    out = attend(
        _queries(q, mass, lead=whole), _with_sink(k, PIECES), _with_sink(v, 1), dropout=dropout,
        scale=q.shape[-1] ** -0.5,
    )  # fmt: skip
    if whole:
        out = out[:, 1:]
    width = v.shape[-1]
    return out[..., :width] + out[..., width : width + 1] * mixed


def look_down(
    q: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Attention to the depth alone.

    Args:
        q: (B, T, H, d).
        keys: n of (B, T, K, d).
        values: n of (B, T, K, d).

    Returns:
        (B, T, H), the logarithm of the sum of exp(score), in float32 or wider, and (B, T, H, d).
    """
    scores = _scores_down(q, keys)
    mixed = scores.softmax(-1).to(q.dtype) @ torch.stack(values, dim=3)
    return scores.logsumexp(-1).flatten(2), mixed.flatten(2, 3)


def attend_one(
    q: Tensor, k: Tensor, v: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]
) -> Tensor:
    """`attend_depths` for one position per row: the scores of a single query are a row, no matrix.

    The way of many queries would copy all keys and values, to widen them by its spare channels.
    """
    groups = q.shape[2] // k.shape[2]
    query = _wide(q.squeeze(1).unflatten(1, (-1, groups)))  # (B, K, g, d)
    across = query @ _wide(k).permute(0, 2, 3, 1) * q.shape[-1] ** -0.5
    down = _scores_down(q, keys).squeeze(1)
    weights = torch.cat((across, down), dim=-1).softmax(-1).to(v.dtype)
    to_sequence, to_depth = weights.split([k.shape[1], len(keys)], dim=-1)
    mixed: Tensor = to_sequence @ v.transpose(1, 2) + to_depth @ torch.stack(values, dim=3).squeeze(
        1
    )
    return mixed.flatten(1, 2).unsqueeze(1)


def _scores_down(q: Tensor, keys: tuple[Tensor, ...]) -> Tensor:
    """(B, T, K, g, n): each query against the keys of its own position."""
    stack = _wide(torch.stack(keys, dim=4))  # (B, T, K, d, n)
    query = _wide(q.unflatten(2, (stack.shape[2], -1)))
    scores: Tensor = query @ stack * q.shape[-1] ** -0.5
    return scores


def _queries(q: Tensor, mass: Tensor, *, lead: bool) -> Tensor:
    """The queries with the score of the depth in their spare channels.

    In 16 bits one channel would round a score of 8 by 0.03, and the depth's share with it: it is
    laid down in pieces, each what the ones before have left.

    Args:
        q: (B, T, H, d).
        mass: (B, T, H).
        lead: Whether to put a query in front that is not asked for, so that there are as many
            queries as keys: kernels know that kind of causality without a mask.
    """
    score = mass * q.shape[-1] ** 0.5  # which the kernel scales back
    pieces = [score.to(q.dtype)]
    with torch.no_grad():  # the first has the gradient: it is the score, but for its rounding
        for _ in range(PIECES - 1):
            score = score - pieces[-1]
            pieces.append(score.to(q.dtype))
    spare = F.pad(torch.stack(pieces, dim=-1), (0, SPARE - PIECES))
    q = torch.cat((q, spare), dim=-1)
    return torch.cat((torch.zeros_like(q[:, :1]), q), dim=1) if lead else q


def _with_sink(x: Tensor, ones: int) -> Tensor:
    """Keys or values (B, S, K, d) behind one that stands for the depth: (B, S + 1, K, d + 8).

    Its own channels are zero and the first `ones` spare channels one; theirs are zero.
    """
    out = x.new_zeros(x.shape[0], x.shape[1] + 1, x.shape[2], x.shape[3] + SPARE)
    out[:, 1:, :, : x.shape[3]] = x
    out[:, 0, :, x.shape[3] : x.shape[3] + ones] = 1.0
    return out


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
