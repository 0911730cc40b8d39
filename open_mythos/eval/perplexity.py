"""Perplexity: mean loss over a text, every target counted exactly once, at any number of loops."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_mythos.data.batch import IGNORE, Batch
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.errors import InputError
from open_mythos.nn.mode import evaluating


@dataclass(frozen=True)
class Score:
    """How well a model predicts a set of targets.

    Attributes:
        loss: Nats per target, mean.
        accuracy: Share of the targets that the largest logit hits.
        n_targets: Targets, each counted once.
        n_loops: Loops of every pass; None is the model's own number.
        n_bytes: UTF-8 bytes of the text that the targets spell; 0 where that means nothing.
    """

    loss: float
    accuracy: float
    n_targets: int
    n_loops: int | None = None
    n_bytes: int = 0

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700.0 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text, which compares models across tokenizers; None without bytes."""
        if not self.n_bytes:
            return None
        return self.loss * self.n_targets / math.log(2.0) / self.n_bytes

    def numbers(self) -> dict[str, float]:
        """The score as a trainer's evaluator reports it."""
        found = {"loss": self.loss, "perplexity": self.perplexity, "accuracy": self.accuracy}
        if self.bits_per_byte is not None:
            found["bits_per_byte"] = self.bits_per_byte
        return found


@torch.inference_mode()
def score(
    model: nn.Module,
    batches: Iterable[Batch],
    n_loops: int | None = None,
    *,
    tokenizer: Tokenizer | None = None,
) -> Score:
    """Score a model on finite batches, in evaluation mode, which is undone afterwards.

    The mean is over targets, not over batches: a short last batch weighs what it holds. A batch
    that says its own number of loops is run at `n_loops` all the same, unless that is None.

    With the tokenizer of a text, the bytes of exactly the scored targets are counted too: decoded
    as one, so that a character cut by a window is whole again. Ends of text spell nothing. A
    character of which the first or the last target holds a part counts as U+FFFD, three bytes.

    Raises:
        InputError: If the batches hold no target.
    """
    device = next(model.parameters()).device
    loss, hits, count = 0.0, 0, 0
    spelt: list[int] = []
    with evaluating(model):
        for batch in batches:
            moved = batch.to(device)
            told = {} if moved.documents is None else {"documents": moved.documents}
            logits = model(moved.ids, batch.n_loops if n_loops is None else n_loops, **told)
            sums = sums_over_targets(logits, moved.targets)
            loss, hits, count = loss + sums[0], hits + sums[1], count + sums[2]
            if tokenizer is not None:
                spelt += batch.targets[batch.targets != IGNORE].tolist()
    if not count:
        raise InputError("the batches hold no target; was the text shorter than one window?")
    n_bytes = 0 if tokenizer is None else len(tokenizer.decode(spelt).encode())
    return Score(loss / count, hits / count, count, n_loops, n_bytes)


def sums_over_targets(logits: Tensor, targets: Tensor) -> tuple[float, int, int]:
    """Summed loss in nats, hits, and number of targets, over the scored positions of a batch.

    Summed in float64: over a million targets float32 would lose the fourth digit.
    """
    scored = targets != IGNORE
    chosen, wanted = logits[scored].float(), targets[scored]
    losses = F.cross_entropy(chosen, wanted, reduction="none").cpu()
    hits = (chosen.argmax(-1) == wanted).sum()
    return float(losses.double().sum()), int(hits), wanted.numel()
