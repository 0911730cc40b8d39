"""Task accuracy at a chosen difficulty and a chosen number of loops, on held-out batches."""

from collections.abc import Iterable, Iterator

from torch import nn

from open_mythos.data.batch import Batch
from open_mythos.data.tasks.task import Task
from open_mythos.eval.perplexity import Score, score


# Batches of an evaluation unless told otherwise: 8 of 64 rows of 32 queries are 16,384 answers,
# so that one standard error of an accuracy is at most 0.4 %.
BATCHES = 8


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
        difficulty: What the task counts, hops or bits; beyond the trained range if you like.
        n_loops: Loops; None is the model's own number, whatever the difficulty.
        batches: Held-out batches to average over.
    """
    return score(model, task_batches(task, difficulty, batches), n_loops)


def those_with_room(task: Task, difficulties: Iterable[int], room: int) -> list[int]:
    """The difficulties that exist and whose rows have at most `room` positions, ascending."""
    end = task.max_difficulty
    existing = (d for d in sorted(set(difficulties)) if end is None or d <= end)
    return [d for d in existing if task.row_length(d) <= room]
