"""What a step minimises: named loss terms, and their sum."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from open_mythos.data.batch import IGNORE
from open_mythos.data.streams import Purpose, stream
from open_mythos.errors import InputError
from open_mythos.model.output import ForwardOutput
from open_mythos.nn.upload import upload
from open_mythos.ops.head_loss import HeadLoss, head_loss
from open_mythos.train.gate import exit_entropy, exit_probabilities, loop_costs
from open_mythos.train.recipe import ObjectiveConfig, PriorKind


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

    Args:
        output: Of the pass.
        targets: (B, S).
        head: (vocab, dim), or what `cross_entropy` takes for it.
        config: The terms and their weights.
        cross_entropy: `head_loss`, or its equal where ranks share the head.

    Raises:
        InputError: If a term is asked of a pass that has nothing to form it from.
    """
    score = partial(_score, targets=targets.flatten(), head=head, by=cross_entropy)
    further: dict[str, Tensor] = {}
    weights = None
    if config.gate_entropy:
        weights = exit_probabilities(output)
        further["gate_entropy"] = -config.gate_entropy * exit_entropy(weights, targets)
    cost = loop_costs(output, score, weights, config.z_loss)
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
        further["ponder"] = config.ponder * output.ponder_cost.float()
    if config.loop_loss:
        further["loop_loss"] = config.loop_loss * loop_loss(output, score)
    if config.depth_prior:
        further["depth_prior"] = config.depth_prior * depth_prior(output, targets, config)
    for name, part in further.items():
        total, parts[name] = total + part, part.detach()
    return Terms(total=total, parts=parts, correct=cost.correct, n_targets=cost.n_targets)


def _score(
    features: Tensor, targets: Tensor, head: Tensor, by: Callable[..., HeadLoss], **how: Any
) -> HeadLoss:
    return by(features.flatten(0, 1), head, targets, ignore_index=IGNORE, **how)


def loop_loss(output: ForwardOutput, score: Callable[[Tensor], HeadLoss]) -> Tensor:
    """Mean cross entropy of what was read out before the last loop: a scalar; 0 after one loop.

    Args:
        output: Of the pass.
        score: Features (B, S, dim) to their cross entropy.

    Raises:
        InputError: If nothing was read.
    """
    read = output.loop_features
    if read:
        return torch.stack([score(features).total for features in read]).mean()
    if output.n_loops > 1:
        raise InputError(
            f"objective.loop_loss is set, but this pass of {output.n_loops} loops read out the "
            "last alone; call the model with read_loops, or set loop_loss to 0"
        )
    return torch.zeros((), device=output.features.device)


def sample_reads(
    config: ObjectiveConfig, n_loops: int, backprop_loops: int | None, seed: int, step: int
) -> tuple[int, ...]:
    """The loops of a step whose states are read out and scored too, ascending.

    One from each of `objective.loop_reads` stretches of nearly equal length, of the loops before
    the last that are differentiated; fewer where there are fewer loops. All of them where the gate
    weighs every loop.

    Args:
        config: How many, if any.
        n_loops: Loops of the step; of its deepest row where rows differ.
        backprop_loops: How many of them are differentiated; None is all.
        seed: Of the run.
        step: Steps done before it.
    """
    first = 1 if backprop_loops is None else max(n_loops - backprop_loops + 1, 1)
    room = n_loops - first
    if config.gate_entropy:
        return tuple(range(1, n_loops))
    count = min(config.loop_reads, room) if config.loop_loss else 0
    draws = stream(seed, Purpose.READS, step).random(max(count, 0))
    edges = [first + room * i // count for i in range(count + 1)] if count > 0 else []
    return tuple(
        low + int(draw * (high - low))
        for draw, low, high in zip(draws, edges, edges[1:], strict=False)
    )


def depth_prior(output: ForwardOutput, targets: Tensor, config: ObjectiveConfig) -> Tensor:
    """Divergence KL(halting weights | prior) over the loops of each row: a scalar, in nats.

    The mean over scored positions. The prior of a row is cut to the loops that the row was given,
    and what is cut off is shared out.

    Raises:
        InputError: If the pass has no halting weights.
    """
    weights = output.halting_weights
    if weights is None:
        raise InputError(
            f"objective.depth_prior is {config.depth_prior}, but this readout has no halting "
            "weights; set it to 0 or use readout='act'"
        )
    n_loops = weights.shape[0]
    rows = output.row_loops or (n_loops,)
    known = [log_prior(config.prior, config.prior_mean, row) for row in rows]
    table = [[*logs, *[0.0] * (n_loops - len(logs))] for logs in known]
    prior = upload(table, weights.device, weights.dtype).t().unsqueeze(-1)  # (T, B or 1, 1)
    # A weight of zero adds nothing, and its slope must stay finite to be dropped.
    logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
    divergence = (weights * (logs - prior)).sum(0)
    scored = targets != IGNORE
    return (divergence * scored).sum() / scored.sum().clamp(min=1)


@lru_cache(maxsize=1024)
def log_prior(kind: PriorKind, mean: float, n_loops: int) -> tuple[float, ...]:
    """Logarithms of the prior's probabilities of 1 .. n_loops loops, which sum to one.

    Args:
        kind: "geometric": each further loop is worth 1 - 1 / mean of the one before. "poisson":
            a Poisson count of that rate.
        mean: Of the distribution before it is cut to 1 .. n_loops.
        n_loops: Most loops.
    """
    loops = range(1, n_loops + 1)
    if kind == "geometric":
        logs = [loop * math.log1p(-1.0 / mean) for loop in loops]
    else:
        logs = [loop * math.log(mean) - math.lgamma(loop + 1) for loop in loops]
    top = max(logs)
    whole = top + math.log(sum(math.exp(log - top) for log in logs))
    return tuple(log - whole for log in logs)
