"""Ouro's objective: a gate says after which loop to leave, and is paid what leaving there costs.

Zhu et al., arXiv 2510.25741.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from open_mythos.data.batch import IGNORE
from open_mythos.errors import InputError
from open_mythos.model.output import ForwardOutput
from open_mythos.nn.upload import upload
from open_mythos.ops.head_loss import HeadLoss


def exit_probabilities(output: ForwardOutput) -> Tensor:
    """The probability (T, B, S) of leaving after each loop, which sums to one over a row's loops.

    Raises:
        InputError: If nobody asked the gate in this pass.
    """
    gate = output.halting
    if gate is None:
        raise InputError(
            "objective.gate_entropy is set, but this pass did not ask its gate; call "
            "model.recurrent.train_gate() before training, or set it to 0"
        )
    going = (1.0 - gate).cumprod(0)
    before = torch.cat((torch.ones_like(going[:1]), going[:-1]))
    ends = output.row_loops or (output.n_loops,)
    end = upload(list(ends), gate.device).view(1, -1, 1)
    loop = torch.arange(1, output.n_loops + 1, device=gate.device).view(-1, 1, 1)
    return torch.where(loop == end, before, gate * before)


def exit_entropy(p: Tensor, targets: Tensor) -> Tensor:
    """Entropy of the exit loop in nats, the mean over scored positions: a scalar.

    Args:
        p: (T, B, S), exit probabilities.
        targets: (B, S).
    """
    # A probability of zero adds nothing, and its slope must stay finite to be dropped.
    logs = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    scored = targets != IGNORE
    return -((p * logs).sum(0) * scored).sum() / scored.sum().clamp(min=1)


def loop_costs(
    output: ForwardOutput,
    score: Callable[..., HeadLoss],
    weights: Tensor | None,
    z_loss: float,
) -> HeadLoss:
    """What the predictions cost: the last loop's, or those of all loops, each by its weight.

    Args:
        output: Of the pass.
        score: Features (B, S, dim) to their cost.
        weights: (T, B, S); None is the last loop alone.
        z_loss: As in `head_loss`.

    Returns:
        The sum over loops; hits are those of the last loop.

    Raises:
        InputError: If not every loop before the last was read.
    """
    if weights is None:
        return score(output.features, z_loss=z_loss)
    read = output.loop_features
    if len(read) != output.n_loops - 1:
        raise InputError(
            f"objective.gate_entropy is set, but of {output.n_loops} loops {len(read)} were read "
            f"before the last; call the model with read_loops=range(1, {output.n_loops})"
        )
    costs = [
        score(features, z_loss=z_loss, weights=weight.flatten())
        for features, weight in zip((*read, output.features), weights, strict=True)
    ]
    squares = [cost.z_loss for cost in costs if cost.z_loss is not None]
    return replace(
        costs[-1],
        total=torch.stack([cost.total for cost in costs]).sum(),
        cross_entropy=torch.stack([cost.cross_entropy for cost in costs]).sum(),
        z_loss=torch.stack(squares).sum() if squares else None,
    )
