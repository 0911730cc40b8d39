"""What a step minimises: named loss terms, and their sum."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from open_mythos.data.batch import IGNORE
from open_mythos.errors import InputError
from open_mythos.model.output import ForwardOutput
from open_mythos.ops.head_loss import HeadLoss, head_loss
from open_mythos.train.recipe import ObjectiveConfig


@dataclass(frozen=True)
class Terms:
    """The loss of one batch, taken apart; everything is a scalar on the model's device.

    Attributes:
        total: The sum of the parts: what is differentiated.
        parts: Each term's share of the total, its weight included; without gradient.
        correct: Targets that the largest logit hits.
        n_targets: Positions that are scored.
    """

    total: Tensor
    parts: dict[str, Tensor]
    correct: Tensor
    n_targets: Tensor


def objective(
    output: ForwardOutput,
    targets: Tensor,
    head: Tensor,
    config: ObjectiveConfig,
    cross_entropy: Callable[..., HeadLoss] = head_loss,
) -> Terms:
    """Score a forward pass against targets (B, S), means over the scored positions.

    The logits are formed here, from the pass's features and the head's weight (vocab, dim), some
    rows at a time: all of them at once would be the largest tensor of a step.

    Raises:
        InputError: If the ponder cost is asked of a readout without it.
    """
    cost = cross_entropy(
        output.features.flatten(0, 1),
        head,
        targets.flatten(),
        ignore_index=IGNORE,
        z_loss=config.z_loss,
    )
    assert cost.correct is not None
    total, parts = cost.total, {"cross_entropy": cost.cross_entropy}
    if cost.z_loss is not None:
        parts["z_loss"] = config.z_loss * cost.z_loss
    if config.ponder:
        if output.ponder_cost is None:
            raise InputError(
                f"objective.ponder is {config.ponder}, but this readout has no ponder cost; "
                "set it to 0 or use readout='act'"
            )
        ponder = config.ponder * output.ponder_cost.float()
        total, parts["ponder"] = total + ponder, ponder.detach()
    return Terms(total=total, parts=parts, correct=cost.correct, n_targets=cost.n_targets)
