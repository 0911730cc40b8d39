"""Logits to a token: temperature, top-k, top-p, min-p. Pure functions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.errors import InputError


LEAST_TEMPERATURE = 1e-20  # below this, float32 has no room for the quotient


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; checked when made.

    Attributes:
        temperature: Divides the logits; 0 takes the largest.
        top_k: Keep the k largest logits; 0 keeps all, more than the vocabulary too.
        top_p: Keep the fewest tokens whose probabilities reach this; 1 keeps all.
        min_p: Keep tokens at least this likely, relative to the likeliest; 0 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{name} is {value!r}; it must be a number")
        if not math.isfinite(self.temperature) or self.temperature < 0.0:
            raise InputError(
                f"temperature is {self.temperature}; it must be finite and >= 0 (0 is greedy)"
            )
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise InputError(f"top_k is {self.top_k!r}; it must be an int >= 0 (0 is no filter)")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p is {self.top_p}; it must lie in (0, 1] (1 is no filter)")
        if not 0.0 <= self.min_p <= 1.0:
            raise InputError(f"min_p is {self.min_p}; it must lie in [0, 1] (0 is no filter)")


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


def pick(logits: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Draw one token per row.

    Args:
        logits: (B, V).
        sampling: How.
        generator: Source of randomness; None is torch's own.

    Returns:
        (B,) int64.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(-1)
    # From the largest down, so that a tiny temperature ends in zeros and not in inf - inf.
    below = logits.float() - logits.float().amax(-1, keepdim=True)
    wide = below / max(sampling.temperature, LEAST_TEMPERATURE)
    if sampling.top_k:
        wide = keep_top_k(wide, sampling.top_k)
    if sampling.top_p < 1.0:
        wide = keep_top_p(wide, sampling.top_p)
    if sampling.min_p > 0.0:
        wide = keep_min_p(wide, sampling.min_p)
    return torch.multinomial(wide.softmax(-1), 1, generator=generator).squeeze(-1)
