"""What every exit would say at every loop, and what leaving there costs: one pass per batch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exits.criterion import Exit, Kept, Seen
from open_mythos.nn.mode import evaluating


@dataclass(frozen=True)
class Answers:
    """How well positions are answered, N of them; of several loops, (T, N).

    Attributes:
        loss: Nats, float64.
        hit: Whether the largest logit is the target.
        row: (N,) int64, the row that a position is in: positions of one row are not independent.
        loops: (N,) int64, loops in which each position took part.
    """

    loss: Tensor
    hit: Tensor
    row: Tensor
    loops: Tensor


@dataclass(frozen=True)
class ExitScores:
    """Every loop of every scored position, at full depth.

    Attributes:
        scores: By exit, (T, N).
        answers: Of all T loops: what is read after each, all positions leaving there.
    """

    scores: Mapping[str, Tensor]
    answers: Answers

    @property
    def n_loops(self) -> int:
        """T."""
        return self.answers.loss.shape[0]


class Watcher:
    """An exit that lets nobody go, and notes the scores of others.

    Attributes:
        exits: By name.
        noted: Their scores (B, S), loop after loop, of the last pass.
    """

    name = "watcher"

    def __init__(self, exits: Mapping[str, Exit]) -> None:
        """Watch these."""
        self.exits = exits
        self.noted: dict[str, list[Tensor]] = {}
        self._kept: dict[str, Kept] = {}
        self.predictions = max((rule.predictions for rule in exits.values()), default=0)
        self.gated = any(rule.gated for rule in exits.values())

    def score(self, seen: Seen, kept: Kept) -> tuple[Tensor, Kept]:
        """Note every exit's; its own is zero."""
        if seen.loop == 1:
            self.noted = {name: [] for name in self.exits}
            self._kept = dict.fromkeys(self.exits, ())
        for name, rule in self.exits.items():
            score, self._kept[name] = rule.score(seen, self._kept[name])
            self.noted[name].append(score)
        return torch.zeros_like(seen.after[..., 0]), kept

    def done(self, score: Tensor) -> Tensor:
        """Nobody."""
        return torch.zeros_like(score, dtype=torch.bool)


@torch.inference_mode()
def watch(
    model: OpenMythos, batches: Iterable[Batch], n_loops: int, exits: Mapping[str, Exit]
) -> ExitScores:
    """Run a model to its full depth, and note what each exit would have said.

    Args:
        model: The network.
        batches: Held-out rows.
        n_loops: The full depth.
        exits: By name.

    Raises:
        InputError: If the batches hold no target.
    """
    watcher, parts, rows = Watcher(exits), [], 0
    scores: dict[str, list[Tensor]] = {name: [] for name in exits}
    with evaluating(model):
        for batch in batches:
            output, targets = _passed(
                model, batch, n_loops, exit=watcher, read_loops=range(1, n_loops)
            )
            reads = (*output.loop_features, output.features)
            loops = output.loops_used.clamp(max=n_loops)
            parts.append(_answers(model, reads, targets, loops, rows))
            rows += len(targets)
            scored = targets != IGNORE
            for name, noted in watcher.noted.items():
                noted += [noted[-1]] * (n_loops - len(noted))  # where all had halted before
                scores[name].append(torch.stack([score[scored] for score in noted]).cpu())
    return ExitScores(
        {name: torch.cat(found, dim=1) for name, found in scores.items()}, _joined(parts)
    )


@torch.inference_mode()
def answered(
    model: OpenMythos, batches: Iterable[Batch], n_loops: int, exit: object = None
) -> Answers:
    """Run a model with an exit, or without one, and score what it says.

    Raises:
        InputError: If the batches hold no target.
    """
    parts, rows = [], 0
    with evaluating(model):
        for batch in batches:
            output, targets = _passed(model, batch, n_loops, exit=exit)
            parts.append(_answers(model, [output.features], targets, output.loops_used, rows))
            rows += len(targets)
    whole = _joined(parts)
    return Answers(whole.loss[0], whole.hit[0], whole.row, whole.loops)


def _passed(model: OpenMythos, batch: Batch, n_loops: int, **how: Any) -> tuple[Any, Tensor]:
    """The record of a pass, and its targets on the model's device."""
    moved = batch.to(model.embed.weight.device)
    if moved.documents is not None:
        how["documents"] = moved.documents
    output = model(moved.ids, n_loops, logits_to_keep=0, return_output=True, **how)
    return output, moved.targets


def _answers(
    model: OpenMythos, reads: Sequence[Tensor], targets: Tensor, loops: Tensor, first: int
) -> Answers:
    """Of features (B, S, dim) by loop; rows are numbered from `first`."""
    scored = targets != IGNORE
    wanted = targets[scored]
    loss, hit = [], []
    for features in reads:
        logits = model.head(features[scored])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss.append(F.cross_entropy(wide, wanted, reduction="none").double().cpu())
        hit.append((wide.argmax(-1) == wanted).cpu())
    row = torch.arange(first, first + len(targets)).unsqueeze(-1).expand(targets.shape)
    return Answers(torch.stack(loss), torch.stack(hit), row[scored.cpu()], loops[scored].cpu())


def _joined(parts: Sequence[Answers]) -> Answers:
    if not sum(part.row.numel() for part in parts):
        raise InputError("the batches hold no target; was the text shorter than one window?")
    return Answers(
        torch.cat([part.loss for part in parts], dim=1),
        torch.cat([part.hit for part in parts], dim=1),
        torch.cat([part.row for part in parts]),
        torch.cat([part.loops for part in parts]),
    )
