"""What a run is judged by while it trains: evaluators for the trainer, made from its recipe."""

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from torch import nn

from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.tasks.task import Task
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.accuracy import accuracy, those_with_room
from open_mythos.eval.perplexity import score
from open_mythos.train.depth import expected_depth
from open_mythos.train.evaluation import Evaluator
from open_mythos.train.recipe import Recipe
from open_mythos.train.sources import Sources


# While training, enough of the validation text to see the curve: 16 batches of 16 windows of 128
# are 32,768 targets, whose mean loss has a standard error of about 0.02 nats.
TEXT_BATCHES = 16
TASK_BATCHES = 2


def standard_evaluators(recipe: Recipe, sources: Sources) -> dict[str, Evaluator]:
    """The evaluators that suit a recipe's data, by name; none for a foreign source.

    Text and chat: "validation", at the training depth's mean, and of a mixture, whose heaviest part
    that is, "validation_web" and so on by the names of its folders. Tasks: "hops_8" or "bits_24"
    and so on, at the easiest, the hardest trained and twice that difficulty, where it exists and
    the model has room for its rows; with the loops that the task grants, or the mean depth.
    """
    held_out = sources.evaluation
    if held_out is None:
        return {}
    loops = max(1, round(expected_depth(recipe.depth)))
    if isinstance(held_out, TokenWindows | ChatRows):
        named = {"validation": held_out, **part_names(sources.parts)}
        return {
            name: text_evaluator(windows, loops, sources.tokenizer)
            for name, windows in named.items()
        }
    most = held_out.max_level
    shown = those_with_room(held_out, (1, most, 2 * most), recipe.model.max_seq_len)
    return {
        f"{held_out.unit}_{d}": task_evaluator(held_out, d, held_out.loops_for(d) or loops)
        for d in shown
    }


def part_names(parts: Mapping[str, TokenWindows]) -> dict[str, TokenWindows]:
    """The parts of a mixture by the last names of their paths, or the whole where two are alike."""
    short = Counter(Path(path).name for path in parts)
    names = {path: Path(path).name if short[Path(path).name] == 1 else path for path in parts}
    return {f"validation_{names[path]}": windows for path, windows in parts.items()}


def text_evaluator(
    windows: TokenWindows | ChatRows,
    n_loops: int,
    tokenizer: Tokenizer | None = None,
    batches: int = TEXT_BATCHES,
) -> Evaluator:
    """Loss, perplexity and accuracy on the first batches of a validation text, or of answers.

    With the tokenizer, bits per byte too, which compare across tokenizers.
    """

    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:  # noqa: ARG001 -- Evaluator
        first = islice(windows.evaluation_batches(), batches)
        return score(model, first, n_loops, tokenizer=tokenizer).numbers()

    return evaluate


def task_evaluator(
    task: Task, difficulty: int, n_loops: int, batches: int = TASK_BATCHES
) -> Evaluator:
    """Accuracy and loss of a task at one difficulty and number of loops."""

    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:  # noqa: ARG001 -- Evaluator
        found = accuracy(model, task, difficulty, n_loops, batches=batches)
        return {"accuracy": found.accuracy, "loss": found.loss}

    return evaluate
