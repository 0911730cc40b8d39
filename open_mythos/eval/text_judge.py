"""TextJudge: how well held-out text is predicted, at the depth of training and beside it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

from torch import nn

from open_mythos.data.batch import Batch
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.eval.perplexity import score


# Positions of one pass: their logits over 50,000 words take 0.8 GB.
POSITIONS = 4096

Source = TypeVar("Source")


class HeldOut(Protocol):
    """Text that is gone through once, in order, such as TokenWindows."""

    @property
    def seq_len(self) -> int:
        """Positions of a row."""
        ...

    def evaluation_batches(self) -> Iterator[Batch]:
        """Every target once, always in the same order."""
        ...


@dataclass
class TextJudge:
    """Loss, perplexity, accuracy and, with a tokenizer, bits per byte of a text's first rows.

    Beside the training depth's numbers the loss alone at others, as "loss_at_8". The rows are the
    same for every model, run and batch size; their bytes are counted once.

    Attributes:
        held_out: The text.
        n_loops: The loops that the run means.
        also_at: Other numbers of loops.
        tokenizer: What spells the targets.
        tokens: Targets to score, rounded up to whole rows.
    """

    one_rank: ClassVar[bool] = True

    held_out: HeldOut
    n_loops: int
    also_at: Sequence[int] = ()
    tokenizer: Tokenizer | None = None
    tokens: int = 16_384
    n_bytes: int | None = field(default=None, init=False)

    def __call__(self, model: nn.Module, step: int) -> Mapping[str, float]:  # noqa: ARG002
        """The numbers of a model, whatever the step."""
        fresh = self.tokenizer if self.n_bytes is None else None
        found = score(model, self.rows(), self.n_loops, tokenizer=fresh)
        if self.n_bytes is None:
            self.n_bytes = found.n_bytes
        numbers = replace(found, n_bytes=self.n_bytes).numbers()
        if self.also_at:
            losses = {self.n_loops: found.loss}
            for n_loops in sorted({*self.also_at} - {self.n_loops}):
                losses[n_loops] = score(model, self.rows(), n_loops).loss
            numbers |= {f"loss_at_{n}": losses[n] for n in sorted(losses)}
        return numbers

    def rows(self) -> Iterator[Batch]:
        """The rows that are judged, in passes of a size that no recipe decides."""
        length = self.held_out.seq_len
        source = in_passes_of(self.held_out, max(1, POSITIONS // length))
        return first_rows(source.evaluation_batches(), -(-self.tokens // length))


def in_passes_of(source: Source, rows: int) -> Source:
    """The same data with so many rows in a batch: evaluation is not to hang on the training's."""
    plain: Any = source
    changed: Source = replace(plain, batch_size=rows)
    return changed


def first_rows(batches: Iterable[Batch], rows: int) -> Iterator[Batch]:
    """So many rows of some batches, or all if there are fewer; the last batch is cut."""
    for batch in batches:
        if rows <= 0:
            return
        if len(batch.ids) > rows:
            batch = replace(
                batch,
                ids=batch.ids[:rows],
                targets=batch.targets[:rows],
                documents=None if batch.documents is None else batch.documents[:rows],
            )
        rows -= len(batch.ids)
        yield batch
