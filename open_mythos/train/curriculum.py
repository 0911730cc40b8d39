"""The curriculum: a pure function from accuracy to the next level of a task."""

from dataclasses import dataclass, replace

from open_mythos.train.recipe import CurriculumConfig


@dataclass(frozen=True)
class Progress:
    """Where a run stands in its curriculum.

    Attributes:
        level: Level of the next batch; 0 is the full difficulty, which has no next.
        accuracy: Running accuracy at this level; None before its first step.
        steps: Steps taken at this level.
    """

    level: int = 0
    accuracy: float | None = None
    steps: int = 0


def start(config: CurriculumConfig, max_level: int) -> Progress:
    """The first step's place: the recipe's, within what the task has (text has no levels)."""
    return Progress(level=min(config.first_level, max_level))


def advance(
    progress: Progress, accuracy: float, config: CurriculumConfig, max_level: int
) -> Progress:
    """Take in one step's accuracy; go on a level when the running one is high enough.

    A new level starts its running accuracy afresh, so one level's ease never opens two doors.
    """
    past = progress.accuracy
    running = accuracy if past is None else past + (1.0 - config.momentum) * (accuracy - past)
    progress = replace(progress, accuracy=running, steps=progress.steps + 1)
    ripe = progress.steps >= config.min_steps and running >= config.threshold
    if ripe and 0 < progress.level < max_level:
        return Progress(level=progress.level + 1)
    return progress
