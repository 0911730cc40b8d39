"""Thresholds: one kind of exit for many rows, each with a threshold of its own, or with none."""

from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Seen


@dataclass(frozen=True)
class Thresholds:
    """An exit whose threshold differs by row.

    Scores do not know the threshold: rows share the score, and what is remembered for it.

    Attributes:
        rule: Scores; its own threshold is not read.
        limits: (B, 1) float64; no number where a row does not leave by an exit.
    """

    rule: Criterion
    limits: Tensor

    @property
    def predictions(self) -> int:
        """As the rule."""
        return self.rule.predictions

    @property
    def gated(self) -> bool:
        """As the rule."""
        return self.rule.gated

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """As the rule."""
        return self.rule.score(seen, kept)

    def done(self, score: Tensor) -> Tensor:
        """Compared in the score's precision, as one threshold is; no number lets nobody go."""
        limits = self.limits.to(score.dtype) if score.is_floating_point() else self.limits
        return torch.ge(score, limits) if self.rule.above else torch.le(score, limits)
