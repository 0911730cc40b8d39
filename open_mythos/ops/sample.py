"""A token per row of logits: filters, and the race of exponential clocks that draws.

On CUDA the largest logit, and a draw by temperature with or without top-k, are two launches; other
filters, other devices and very wide vocabularies take the plain definition, which sorts.
"""

import math

import torch
from torch import Tensor

from open_mythos.ops.rows import RowsBackend, rows_backend


LEAST_TEMPERATURE = 1e-20  # below this, float32 has no room for the quotient
# What the kernels hold in one program.
MOST_TOP_K = 128
MOST_VOCAB = 2**19


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest of (B, V) logits to -inf; ties with the k-th stay."""
    kth = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens whose joint probability reaches p (Holtzman et al. 2019)."""
    ordered, index = logits.sort(dim=-1, descending=True)
    share = ordered.softmax(-1)
    dropped = share.cumsum(-1) - share >= p  # what lies before a token already reaches p
    return torch.full_like(logits, -math.inf).scatter(
        -1, index, ordered.masked_fill(dropped, -math.inf)
    )


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens with at least p times the probability of the likeliest."""
    best = logits.amax(-1, keepdim=True)
    return logits.masked_fill(logits < best + math.log(p), -math.inf)


def sample_backend(
    logits: Tensor, noise: Tensor | None, top_k: int, top_p: float, min_p: float
) -> RowsBackend:
    """The implementation for (B, V) logits and these filters; `noise` is None for the largest."""
    filtered = 0 < top_k < logits.shape[-1]
    fits = (
        0 < logits.shape[-1] <= MOST_VOCAB
        and (top_k <= MOST_TOP_K or not filtered)
        and top_p >= 1.0
        and (min_p <= 0.0 or filtered)
        # Rows are cut, so any width will do.
        and rows_backend(logits[:, :1], noise) == "triton"
    )
    return "triton" if fits else "plain"


def largest(logits: Tensor) -> Tensor:
    """The first of the largest of (B, V) logits; (B,) int64."""
    if sample_backend(logits, None, 0, 1.0, 0.0) == "triton":
        from open_mythos.kernels import sample as kernels  # noqa: PLC0415 -- triton is optional

        return kernels.largest(logits)
    return logits.argmax(-1)


def sample(
    logits: Tensor,
    noise: Tensor,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """Draw a token per row: the first of clocks that tick at the rates of the filtered softmax.

    The implementations agree but for ties in rounding.

    Args:
        logits: (B, V).
        noise: (B, V) float32 draws of a unit exponential.
        temperature: Positive; divides the logits.
        top_k: Keep the k largest, and ties with the k-th; 0 keeps all.
        top_p: Keep the fewest tokens whose probabilities reach this; 1 keeps all.
        min_p: Keep tokens at least this likely, relative to the likeliest; 0 keeps all.

    Returns:
        (B,) int64.
    """
    if sample_backend(logits, noise, top_k, top_p, min_p) == "triton":
        from open_mythos.kernels import sample as kernels  # noqa: PLC0415 -- triton is optional

        spread = -math.log(min_p) if min_p > 0.0 else math.inf
        return kernels.sample(logits, noise, max(temperature, LEAST_TEMPERATURE), top_k, spread)
    return sample_plain(logits, noise, temperature, top_k, top_p, min_p)


def sample_plain(
    logits: Tensor,
    noise: Tensor,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """`sample` in torch."""
    # From the largest down, so that a tiny temperature ends in zeros and not in inf - inf.
    below = logits.float() - logits.float().amax(-1, keepdim=True)
    wide = below / max(temperature, LEAST_TEMPERATURE)
    if top_k:
        wide = keep_top_k(wide, top_k)
    if top_p < 1.0:
        wide = keep_top_p(wide, top_p)
    if min_p > 0.0:
        wide = keep_min_p(wide, min_p)
    # The first of independent clocks with these rates: torch.multinomial's own way, without its
    # checks, which wait for the device.
    return (wide.softmax(-1) / noise).argmax(-1)
