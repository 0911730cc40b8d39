"""Adaptive computation time: how much of each position's answer is given at each loop.

Graves 2016, arXiv 1603.08983.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from open_mythos.nn.cut import cut
from open_mythos.nn.places import Places
from open_mythos.nn.watched import patched


class ACTHalting(nn.Module):
    """The probability, per position, of halting at this loop."""

    def __init__(self, dim: int) -> None:
        """One logit from a state of width `dim`."""
        super().__init__()
        self.halt = nn.Linear(dim, 1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, S, dim) -> (B, S), in (0, 1), in float32 or wider: it is summed over loops."""
        wide = torch.float64 if h.dtype == torch.float64 else torch.float32
        halt = self.halt
        if patched(halt):
            watched: Tensor = halt(h).squeeze(-1).to(wide).sigmoid()
            return watched
        p: Tensor = (h.to(wide) @ halt.weight.to(wide).view(-1) + halt.bias.to(wide)).sigmoid()
        return p


TABLES = ("mean", "spent", "halted", "loops", "remainder")


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
        picks: Whether `mean` is one state, the last in which the position took part, whatever the
            weights say.
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
    picks: bool = False

    @classmethod
    def open(
        cls, h: Tensor, threshold: float, *, settled: bool = True, picks: bool = False
    ) -> "HaltingLedger":
        """An empty ledger for states like `h` (B, S, dim).

        Its zeros hang on `h` in the autograd graph, as the sums of all later loops do: a compiled
        loop would otherwise need a second graph for its first turn.
        """
        wide = torch.float64 if h.dtype == torch.float64 else torch.float32
        never = torch.zeros((), dtype=torch.bool, device=h.device)
        mean = torch.where(never, h, 0.0).to(wide)
        zero = mean[..., 0].clone()
        return cls(
            threshold=threshold,
            settled=settled,
            mean=mean,
            spent=zero,
            halted=torch.zeros_like(zero, dtype=torch.bool),
            loops=torch.zeros_like(zero, dtype=torch.int64),
            remainder=zero.clone(),
            picks=picks,
        )

    def spend(self, h: Tensor, p: Tensor, *, last: bool | Tensor) -> tuple["HaltingLedger", Tensor]:
        """Pay for one loop.

        Args:
            h: (B, S, dim), the state after the loop.
            p: (B, S), its halting probability.
            last: Whether no loop follows; as a boolean scalar tensor it fixes no compiled graph.

        Returns:
            The next ledger, and the weights (B, S) that were paid.
        """
        p = p.to(self.spent.dtype)
        running = ~self.halted
        reached = running & (self.spent + p >= self.threshold)
        closing = reached
        if self.settled:
            if isinstance(last, Tensor):
                closing = reached | (running & last)
            elif last:
                closing = running
        weight = torch.where(closing, 1.0 - self.spent, torch.where(running, p, 0.0))
        if self.picks:
            mean = torch.where(running.unsqueeze(-1), h.to(self.mean.dtype), self.mean)
        else:
            mean = self.mean + weight.unsqueeze(-1) * h
        return replace(
            self,
            mean=mean,
            spent=self.spent + torch.where(running, p, 0.0),
            halted=self.halted | reached,
            loops=self.loops + running.to(torch.int64),
            remainder=self.remainder + torch.where(closing, weight, 0.0),
        ), weight

    def closed(self, h: Tensor) -> Tensor:
        """The mean (B, S, dim) if the loop that led to `h` had been the last one."""
        if self.picks or not self.settled:
            return self.mean
        rest = torch.where(self.halted, 0.0, 1.0 - self.spent)
        return self.mean + rest.unsqueeze(-1) * h

    def split(self, sizes: list[int]) -> list["HaltingLedger"]:
        """The accounts of so many rows each."""
        tables = [cut(getattr(self, name), sizes) for name in TABLES]
        parts = [dict(zip(TABLES, t, strict=True)) for t in zip(*tables, strict=True)]
        return [replace(self, **part) for part in parts]

    def copy(self, own: Callable[[Tensor], Tensor]) -> "HaltingLedger":
        """The same account, of tensors that `own` copies."""
        tables: dict[str, Any] = {name: own(getattr(self, name)) for name in TABLES}
        return replace(self, **tables)

    def put(self, places: Places, part: "HaltingLedger") -> "HaltingLedger":
        """The same account, with that of some positions put in its place."""
        tables: dict[str, Any] = {
            name: places.put(getattr(self, name), getattr(part, name)) for name in TABLES
        }
        return replace(self, **tables)

    @classmethod
    def join(cls, parts: Sequence["HaltingLedger"]) -> "HaltingLedger":
        """The accounts of all rows, one part after the other."""
        tables: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in TABLES
        }
        return replace(parts[0], **tables)

    @property
    def ponder(self) -> Tensor:
        """Graves' cost N + R per position (B, S): loops taken plus remainder (its only slope)."""
        return self.loops + self.remainder
