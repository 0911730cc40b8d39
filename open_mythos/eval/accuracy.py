"""Task accuracy at a chosen difficulty and a chosen number of loops, on held-out batches."""

from collections.abc import Iterator
from typing import Protocol

from torch import nn

from open_mythos.data.batch import Batch
from open_mythos.eval.perplexity import Score, score


# Batches of an evaluation unless told otherwise: 8 of 64 rows of 32 queries are 16,384 answers,
# so that one standard error of an accuracy is at most 0.4 %.
BATCHES = 8


class Task(Protocol):
    """A task with a dial: hops for PointerChase, bits for PrefixParity."""

    def evaluation_batch(self, difficulty: int, /, seed: int = 0) -> Batch:
        """Held-out rows of one difficulty; the same seed gives the same rows."""
        ...


def task_batches(task: Task, difficulty: int, batches: int = BATCHES) -> Iterator[Batch]:
    """The held-out batches of one difficulty: the same for every model and every call."""
    return (task.evaluation_batch(difficulty, seed=seed) for seed in range(batches))


def accuracy(
    model: nn.Module,
    task: Task,
    difficulty: int,
    n_loops: int | None = None,
    *,
    batches: int = BATCHES,
) -> Score:
    """Score a model on a task at one difficulty; loss and accuracy over every scored answer.

    Args:
        model: The network.
        task: The task.
        difficulty: Hops or bits, beyond the trained range if you like.
        n_loops: Loops; None is the model's own number, whatever the difficulty.
        batches: Held-out batches to average over.
    """
    return score(model, task_batches(task, difficulty, batches), n_loops)
