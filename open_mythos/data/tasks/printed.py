"""A row of a task as a person would read it."""

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.task import GeneratedTask


def printed(task: GeneratedTask, difficulty: int, seed: int = 0) -> str:
    """The first row of an evaluation batch as two lines, what is read above what is wanted.

    Positions that are not scored want a dot.
    """
    batch = task.evaluation_batch(difficulty, seed)
    read = [task.words[i] for i in batch.ids[0].tolist()]
    wanted = ["." if i == IGNORE else task.words[i] for i in batch.targets[0].tolist()]
    widths = [max(len(a), len(b)) for a, b in zip(read, wanted, strict=True)]
    lines = [
        " ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in (read, wanted)
    ]
    return "\n".join(lines)
