"""What a step minimises: named loss terms, and their sum."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from open_mythos.data.batch import IGNORE
from open_mythos.errors import InputError
from open_mythos.model.output import ForwardOutput
from open_mythos.train.recipe import ObjectiveConfig


@dataclass(frozen=True)
class Terms:
    """The loss of one batch, taken apart.

    Attributes:
        parts: Each term's share of the total, its weight included; scalars, differentiable.
        correct: Targets that the largest logit hits; a scalar, without gradient.
        n_targets: Positions that are scored.
    """

    parts: dict[str, Tensor]
    correct: Tensor
    n_targets: int

    @property
    def total(self) -> Tensor:
        """The sum of the parts: what is differentiated."""
        return torch.stack(list(self.parts.values())).sum()


def objective(output: ForwardOutput, targets: Tensor, config: ObjectiveConfig) -> Terms:
    """Score a forward pass against targets (B, S), means over the scored positions.

    The logits are taken to float32 first: a bfloat16 log-sum-exp over a vocabulary loses the
    third digit of the loss.

    Raises:
        InputError: If no position is scored, or the ponder cost is asked of a readout without it.
    """
    scored = targets != IGNORE
    n_targets = int(scored.sum())
    if not n_targets:
        raise InputError(f"every one of the {targets.numel()} targets is {IGNORE}; none is scored")
    logits, wanted = output.logits[scored].float(), targets[scored]
    parts = {"cross_entropy": F.cross_entropy(logits, wanted)}
    if config.z_loss:
        parts["z_loss"] = config.z_loss * logits.logsumexp(-1).square().mean()
    if config.ponder:
        if output.ponder_cost is None:
            raise InputError(
                f"objective.ponder is {config.ponder}, but this readout has no ponder cost; "
                "set it to 0 or use readout='act'"
            )
        parts["ponder"] = config.ponder * output.ponder_cost.float()
    correct = (logits.detach().argmax(-1) == wanted).sum()
    return Terms(parts=parts, correct=correct, n_targets=n_targets)
