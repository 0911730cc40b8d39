"""The vocabulary divided over a tensor axis: embedding, head, and the loss of the head."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from open_mythos.nn.linear import Linear
from open_mythos.parallel.collectives import copied, reduced, side_by_side
from open_mythos.parallel.mesh import Axis


class DividedEmbedding(nn.Embedding):
    """An embedding of which every rank holds the rows of some words."""

    axis: Axis

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of the whole vocabulary (B, S) -> (B, S, dim)."""
        place = ids - self.axis.rank * self.weight.shape[0]
        elsewhere = (place < 0) | (place >= self.weight.shape[0])
        own = F.embedding(place.masked_fill(elsewhere, 0), self.weight)
        return reduced(own.masked_fill(elsewhere.unsqueeze(-1), 0.0), self.axis)


class DividedHead(Linear):
    """A head of which every rank holds the rows of some words."""

    axis: Axis

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., vocab), the logits of the whole vocabulary."""
        if not x.numel():  # a pass that forms no logits asks nobody
            return x.new_empty(*x.shape[:-1], self.weight.shape[0] * self.axis.size)
        return side_by_side(super().forward(copied(x, self.axis)), self.axis)


@dataclass(frozen=True)
class Words:
    """This rank's part of the vocabulary, for `ops.head_loss.head_loss_of_part`.

    Attributes:
        axis: The ranks; each has equally many words, in order.
    """

    axis: Axis

    def score(
        self, logits: Tensor, targets: Tensor, *, z_loss: float, ignore_index: int, gradient: bool
    ) -> Tensor:
        """`ops.head_loss.score_rows_plain` of all ranks' logits, in two sums over the ranks."""
        scored = targets != ignore_index
        wide = logits if logits.dtype == torch.float64 else logits.float()
        top = wide.amax(-1)
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=self.axis.group)
        place = targets - self.axis.rank * logits.shape[-1]
        mine = scored & (place >= 0) & (place < logits.shape[-1])
        at = place.masked_fill(~mine, 0).unsqueeze(-1)
        here = mine.to(wide.dtype)
        exps = (wide - top.unsqueeze(-1)).exp()
        hit = wide.gather(-1, at).squeeze(-1) * here
        mass, hit, owners = self.axis.sum(torch.stack((exps.sum(-1), hit, here))).unbind()
        lse = top + mass.log()
        hit = hit.masked_fill(scored & (owners == 0), torch.nan)  # outside of every rank's words
        if gradient:
            slopes = exps.div_(mass.unsqueeze(-1)).mul_((1 + 2 * z_loss * lse).unsqueeze(-1))
            slopes.scatter_add_(-1, at, -here.unsqueeze(-1))
            logits.copy_(slopes.masked_fill_(~scored.unsqueeze(-1), 0))
        return torch.stack((lse, hit, top)).masked_fill(~scored, 0)

    def joined(self, slopes: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        return self.axis.sum(slopes)


def divide_vocabulary(embed: nn.Embedding, head: Linear, weight: nn.Parameter, axis: Axis) -> None:
    """Let a tied embedding and head share `weight` (V / ranks, dim), this rank's part, in place."""
    embed.__class__, head.__class__ = DividedEmbedding, DividedHead
    for module in (embed, head):
        module.axis = axis  # type: ignore[assignment]
        module.weight = weight
    embed.num_embeddings = head.out_features = weight.shape[0]
