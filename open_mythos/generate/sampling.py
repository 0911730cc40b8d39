"""Logits to a token: temperature, top-k, top-p, min-p. Pure functions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.ops.sample import largest, sample


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
        return largest(logits)
    noise = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    noise.exponential_(generator=generator)
    return sample(
        logits, noise, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p
    )
