"""Subject: what a model is examined on, and the depth that it was trained for."""

from dataclasses import dataclass
from itertools import islice

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import Batch
from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.tasks.task import Task
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.accuracy import task_batches, those_with_room
from open_mythos.eval.text_judge import in_passes_of
from open_mythos.train.depth import expected_depth
from open_mythos.train.recipe import Recipe
from open_mythos.train.sources import EvaluationSource


# Positions whose states are watched, and about as many more are scored: 8,192 targets at every
# depth, the same ones, tell losses apart to some 0.01 nats.
PROBE, BATCHES = 2048, 4
# How far beyond the trained depth a model is run.
AHEAD = (2, 4)
# Most rows of a task's batch: 2,048 positions of rows of 16.
MOST_ROWS = 128


@dataclass(frozen=True)
class Subject:
    """What a model is examined on.

    Attributes:
        name: What it is, for people.
        trained: Loops of the trained depth.
        probe: Rows whose states are watched.
        scored: By number of loops, ascending, what is scored with so many. The same batches
            everywhere, or harder ones with more loops where `tied`.
        tied: Whether loops follow the difficulty, so that other numbers of loops answer another
            question.
        varied: Whether training drew its depths; None where nobody knows.
    """

    name: str
    trained: int
    probe: Batch
    scored: dict[int, tuple[Batch, ...]]
    tied: bool = False
    varied: bool | None = None


def subject(
    held_out: EvaluationSource,
    cfg: MythosConfig,
    recipe: Recipe | None = None,
    trained: int | None = None,
) -> Subject:
    """What to examine a model on, from what its run held out.

    Args:
        held_out: Text, conversations or a task.
        cfg: Of the model.
        recipe: How it was trained; None where nobody knows.
        trained: The trained depth; None takes what the task grants its hardest level, else the mean
            of the recipe, else the config's max_loop_iters.
    """
    if isinstance(held_out, TokenWindows | ChatRows):
        source = in_passes_of(held_out, rows_of(held_out.seq_len))
        batches = tuple(islice(source.evaluation_batches(), BATCHES))
        return _free("held-out text", trained or depth_of(cfg, recipe), batches, recipe)
    most = held_out.max_level
    granted = held_out.loops_for(most)
    if granted is not None:
        return _tied(held_out, cfg.max_seq_len, trained or granted)
    task = in_passes_of(held_out, rows_of(held_out.row_length(most)))
    batches = tuple(task_batches(task, most, BATCHES))
    name = f"{held_out.unit}: {most}"
    return _free(name, trained or depth_of(cfg, recipe), batches, recipe)


def depth_of(cfg: MythosConfig, recipe: Recipe | None) -> int:
    """The mean depth of a recipe; without one, what the network runs by itself."""
    return cfg.max_loop_iters if recipe is None else max(1, round(expected_depth(recipe.depth)))


def depths(trained: int) -> list[int]:
    """One loop, half the trained depth, all of it, and what lies beyond."""
    return sorted({1, max(1, trained // 2), trained, *(k * trained for k in AHEAD)})


def rows_of(length: int) -> int:
    """Rows of so many positions that make a probe."""
    return max(1, min(PROBE // length, MOST_ROWS))


def varied(recipe: Recipe | None) -> bool | None:
    """Whether a recipe draws its depths; None without one."""
    return None if recipe is None else recipe.depth.kind != "fixed"


def _free(name: str, trained: int, batches: tuple[Batch, ...], recipe: Recipe | None) -> Subject:
    scored = dict.fromkeys(depths(trained), batches)
    return Subject(name, trained, batches[0], scored, varied=varied(recipe))


def _tied(task: Task, room: int, trained: int) -> Subject:
    """A task whose difficulty says the loops: harder questions are scored with more of them."""
    most = task.max_level
    wanted = {1, max(1, most // 2), most, *(k * most for k in AHEAD)}
    scored: dict[int, tuple[Batch, ...]] = {}
    for level in those_with_room(task, wanted, room):
        loops = task.loops_for(level)
        assert loops is not None
        sized = in_passes_of(task, rows_of(task.row_length(level)))
        scored[loops] = tuple(task_batches(sized, level, BATCHES))
    sized = in_passes_of(task, rows_of(task.row_length(most)))
    (probe,) = task_batches(sized, most, 1)
    return Subject(f"{task.unit}: 1 to {most}", trained, probe, scored, tied=True, varied=True)
