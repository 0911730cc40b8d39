"""What a run is judged by while it trains: evaluators for the trainer, made from its recipe."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from open_mythos.data.chat_rows import ChatRows
from open_mythos.data.tasks.mixed import MixedTasks
from open_mythos.data.tasks.task import Task
from open_mythos.data.tokenizer import Tokenizer
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.accuracy import those_with_room
from open_mythos.eval.sample_writer import SampleWriter, held_out_prompts, prompts_of
from open_mythos.eval.task_judge import TaskJudge
from open_mythos.eval.text_judge import HeldOut, TextJudge
from open_mythos.train.depth import expected_depth
from open_mythos.train.evaluation import Evaluator
from open_mythos.train.recipe import Recipe
from open_mythos.train.sources import Sources


# While training, enough of the validation text to see the curve: the mean loss of 16,384 targets
# has a standard error of about 0.03 nats.
TEXT_TOKENS = 16_384


def standard_evaluators(recipe: Recipe, sources: Sources) -> dict[str, Evaluator]:
    """The evaluators that suit a recipe's data, by name; none for a foreign source.

    Text and chat: "validation", at the training depth's mean and at recipe.eval_loops, and of a
    mixture, whose heaviest part that is, "validation_web" and so on by the names of its folders;
    and "samples". Tasks: "hops_8" or "bits_24" and so on, at the easiest, the hardest trained and
    twice that difficulty, where it exists and the model has room for its rows; with the loops that
    the task grants, or the mean depth, and at recipe.eval_loops. Mixed tasks: the
    same of each, "words_levels_8" and so on.
    """
    held_out = sources.evaluation
    if held_out is None:
        return {}
    loops = max(1, round(expected_depth(recipe.depth)))
    if isinstance(held_out, TokenWindows | ChatRows):
        named = {"validation": held_out, **part_names(sources.parts)}
        also, tokens = eval_loops(recipe, loops), recipe.eval_tokens
        judges = {
            name: text_evaluator(text, loops, sources.tokenizer, also_at=also, tokens=tokens)
            for name, text in named.items()
        }
        return {**judges, **sample_evaluators(recipe, held_out, sources.tokenizer)}
    if isinstance(held_out, MixedTasks) and held_out.only == "all":
        return {
            f"{name}_{key}": judge
            for name in held_out.parts
            for key, judge in task_evaluators(recipe, held_out.alone(name), loops).items()
        }
    return task_evaluators(recipe, held_out, loops)


def task_evaluators(recipe: Recipe, held_out: Task, loops: int) -> dict[str, Evaluator]:
    """A task's, by its unit and difficulty; `loops` are given where it grants none."""
    most = held_out.max_level
    shown = those_with_room(held_out, (1, most, 2 * most), recipe.model.max_seq_len)
    also = eval_loops(recipe, held_out.loops_for(most) or loops)
    return {
        f"{held_out.unit}_{d}": task_evaluator(
            held_out, d, held_out.loops_for(d) or loops, also_at=also
        )
        for d in shown
    }


def part_names(parts: Mapping[str, TokenWindows]) -> dict[str, TokenWindows]:
    """The parts of a mixture by the last names of their paths, or the whole where two are alike."""
    short = Counter(Path(path).name for path in parts)
    names = {path: Path(path).name if short[Path(path).name] == 1 else path for path in parts}
    return {f"validation_{names[path]}": windows for path, windows in parts.items()}


def eval_loops(recipe: Recipe, meant: int) -> tuple[int, ...]:
    """The numbers of loops that the recipe asks for; 1 and twice what is meant, if for none."""
    return recipe.eval_loops or (1, 2 * meant)


def text_evaluator(
    held_out: HeldOut,
    n_loops: int,
    tokenizer: Tokenizer | None = None,
    *,
    also_at: Sequence[int] = (),
    tokens: int = TEXT_TOKENS,
) -> Evaluator:
    """Loss, perplexity and accuracy on the first targets of a validation text, or of answers.

    With the tokenizer, bits per byte too, which compare across tokenizers.
    """
    return TextJudge(held_out, n_loops, also_at, tokenizer, tokens)


def task_evaluator(
    task: Task, difficulty: int, n_loops: int, *, also_at: Sequence[int] = ()
) -> Evaluator:
    """Accuracy and loss of a task at one difficulty and number of loops, and accuracy at others."""
    return TaskJudge(task, difficulty, n_loops, also_at)


def sample_evaluators(
    recipe: Recipe, held_out: HeldOut, tokenizer: Tokenizer | None
) -> dict[str, Evaluator]:
    """What the model writes, under "samples"; nothing where nobody wants or can spell it."""
    count = recipe.eval_samples
    if tokenizer is None or not count:
        return {}
    prompts = prompts_of(recipe.eval_prompts, tokenizer)[:count]
    loops = max(1, round(expected_depth(recipe.depth)))
    chosen = prompts or held_out_prompts(held_out, count)
    return {"samples": SampleWriter(chosen, tokenizer, loops, recipe.seed)}
