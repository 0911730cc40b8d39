"""Adaptive computation time: how much of each position's answer is given at each loop.

Graves 2016, arXiv 1603.08983.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


class ACTHalting(nn.Module):
    """The probability, per position, of halting at this loop."""

    def __init__(self, dim: int) -> None:
        """One logit from a state of width `dim`."""
        super().__init__()
        self.halt = nn.Linear(dim, 1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S), in (0, 1)."""
        p: Tensor = self.halt(h).squeeze(-1).sigmoid()
        return p


@dataclass(frozen=True)
class HaltingLedger:
    """What each position has spent of its probability, and what it has bought with it.

    A position pays its halting probability at every loop; at the loop where its total reaches
    `threshold` it pays the remainder up to one, and nothing afterwards. A position that never
    gets there pays the remainder at its last loop, so weights are >= 0 and sum to one for any
    probabilities, threshold and number of loops. Sums are kept in float32 or wider.

    Attributes:
        threshold: Where a position halts, in (0, 1].
        settled: Whether the last loop pays the remainder; False is the sum of open-mythos 0.5.0,
            which loses it.
        mean: (B, S, dim), the weighted states so far.
        spent: (B, S), halting probabilities so far, added up.
        halted: (B, S), boolean.
        loops: (B, S) int64, loops in which the position took part.
        remainder: (B, S), the weight paid on halting; 0 before.
    """

    threshold: float
    settled: bool
    mean: Tensor
    spent: Tensor
    halted: Tensor
    loops: Tensor
    remainder: Tensor

    @classmethod
    def open(cls, h: Tensor, threshold: float, *, settled: bool = True) -> "HaltingLedger":
        """An empty ledger for states like `h` (B, S, dim)."""
        wide = torch.float64 if h.dtype == torch.float64 else torch.float32
        zero = torch.zeros(h.shape[:-1], dtype=wide, device=h.device)
        return cls(
            threshold=threshold,
            settled=settled,
            mean=torch.zeros_like(h, dtype=wide),
            spent=zero,
            halted=torch.zeros_like(zero, dtype=torch.bool),
            loops=torch.zeros_like(zero, dtype=torch.int64),
            remainder=zero,
        )

    def spend(self, h: Tensor, p: Tensor, *, last: bool) -> tuple["HaltingLedger", Tensor]:
        """Pay for one loop.

        Args:
            h: (B, S, dim), the state after the loop.
            p: (B, S), its halting probability.
            last: Whether no loop follows.

        Returns:
            The next ledger, and the weights (B, S) that were paid.
        """
        p = p.to(self.spent.dtype)
        running = ~self.halted
        reached = running & (self.spent + p >= self.threshold)
        closing = running if last and self.settled else reached
        weight = torch.where(closing, 1.0 - self.spent, torch.where(running, p, 0.0))
        return replace(
            self,
            mean=self.mean + weight.unsqueeze(-1) * h,
            spent=self.spent + torch.where(running, p, 0.0),
            halted=self.halted | reached,
            loops=self.loops + running.to(torch.int64),
            remainder=self.remainder + torch.where(closing, weight, 0.0),
        ), weight

    @property
    def ponder(self) -> Tensor:
        """Graves' cost N + R per position (B, S): loops taken plus remainder (its only slope)."""
        return self.loops + self.remainder
