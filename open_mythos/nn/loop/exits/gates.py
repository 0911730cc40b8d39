"""Exits by a learned probability of stopping: adaptive computation time, and Ouro's gate."""

import torch
from torch import Tensor

from open_mythos.nn.loop.exits.criterion import Criterion, Kept, Seen


class Act(Criterion):
    """p_1 + .. + p_t >= threshold: where adaptive computation time halts (arXiv 1603.08983).

    Past 1, where that has halted everywhere, the sum goes on: a model may be asked for more.
    """

    name = "act"
    default = 0.99
    above = True
    gated = True

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """The sum of the probabilities."""
        assert seen.p is not None
        total = kept[0] + seen.p if kept else seen.p
        return total, (total,)


class Gate(Criterion):
    """1 - (1 - l_1) .. (1 - l_t) >= threshold: the distribution of the exit loop has got there.

    Ouro's exit (arXiv 2510.25741): l_t is the gate's probability of stopping at loop t if it has
    not stopped before, so that loop t ends with probability l_t (1 - l_1) .. (1 - l_(t-1)).
    """

    name = "gate"
    default = 0.5
    above = True
    share = True
    gated = True

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """The distribution function of the exit loop."""
        assert seen.p is not None
        going = torch.ones_like(seen.p) - seen.p
        going = kept[0] * going if kept else going
        return 1.0 - going, (going,)
