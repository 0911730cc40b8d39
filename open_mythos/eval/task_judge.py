"""TaskJudge: how well a task is solved at one difficulty, with its own loops and others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from open_mythos.data.tasks.task import Task
from open_mythos.eval.accuracy import accuracy
from open_mythos.eval.text_judge import in_passes_of


# 128 rows of some dozens of answers each: a standard error of an accuracy below 1 %.
ROWS, BATCHES = 64, 2


@dataclass
class TaskJudge:
    """Accuracy and loss of held-out rows of one difficulty; the accuracy at other loops too.

    The rows are the same for every model, run and batch size.

    Attributes:
        task: The task.
        difficulty: Hops, bits and so on.
        n_loops: The loops that the difficulty is granted.
        also_at: Other numbers of loops, reported as "accuracy_at_8".
    """

    one_rank: ClassVar[bool] = True

    task: Task
    difficulty: int
    n_loops: int
    also_at: Sequence[int] = ()

    def __call__(self, model: nn.Module, step: int) -> Mapping[str, float]:  # noqa: ARG002
        """The numbers of a model, whatever the step."""
        task = in_passes_of(self.task, ROWS)
        found = accuracy(model, task, self.difficulty, self.n_loops, batches=BATCHES)
        numbers = {"accuracy": found.accuracy, "loss": found.loss}
        if self.also_at:
            shares = {self.n_loops: found.accuracy}
            for n in sorted({*self.also_at} - {self.n_loops}):
                shares[n] = accuracy(model, task, self.difficulty, n, batches=BATCHES).accuracy
            numbers |= {f"accuracy_at_{n}": shares[n] for n in sorted(shares)}
        return numbers
