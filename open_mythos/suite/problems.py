"""What the suite asks: each task with its recipe, and how far beyond the training it is asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

from open_mythos.data.tasks.task import GeneratedTask
from open_mythos.train.deep_recipes import BY_NAME, Scale, pointer_64
from open_mythos.train.depth_recipes import (
    pointer_16,
    tutorial as tutorial_recipe,
    tutorial_default,
    tutorial_long,
    tutorial_whole_rows,
    tutorial_with_start,
)
from open_mythos.train.recipe import Recipe
from open_mythos.train.task_recipes import (
    task_addition,
    task_knowledge,
    task_p_hop,
    task_parity,
    task_pointer,
    task_variables,
    task_words,
)


# Accuracies on the tutorial's experiment that others have reported.
PUBLIC_PROBE, PUBLISHED = 0.743, 0.546
# The most that weights can answer of 24 bits without a start: along ones from the first bit on, a
# share of 2^-n of the rows, every second answer is wrong (tests/data/tasks/test_prefix.py).
WITHOUT_START = 0.986


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task as the suite asks it.

    Attributes:
        name: What the command line calls it.
        title: What the report calls it.
        recipe: How every design is trained; its model has the sizes that designs are put on.
        difficulties: Rows of the heat map.
        loops: Its columns; the difficulties among them, where the loops say the difficulty.
        batches: Held-out batches behind each cell of the map.
        own: Design -> recipe of its own, where the comparison is of recipes; no others then.
        notes: Sentences for the report.
        levels: Name -> accuracy, to be shown beside the curves.
    """

    name: str
    title: str
    recipe: Recipe
    difficulties: tuple[int, ...]
    loops: tuple[int, ...]
    batches: int = 2
    own: Mapping[str, Recipe] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    levels: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def task(self) -> GeneratedTask:
        """The task, for what is the same at every seed."""
        return self.recipe.data.build_task(seed=0)

    @property
    def per_level(self) -> int:
        """Loops that a row is granted for each unit of difficulty; 0 where the row says it all."""
        granted = 0 if self.task.free else self.task.loops_for(self.task.max_level) or 0
        return granted // self.task.max_level


def problem(
    recipe: Recipe,
    title: str,
    difficulties: tuple[int, ...],
    loops: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    batches: int = 2,
) -> Problem:
    """A problem by a recipe of the library, its model given room for the longest rows asked."""
    task = recipe.data.build_task(seed=0)
    room = max(task.row_length(d) for d in (*difficulties, task.max_level))
    model = replace(recipe.model, max_seq_len=room, max_output_tokens=room)
    return Problem(
        name=recipe.name.removeprefix("task-"),
        title=title,
        # The suite draws its own map behind the run, and needs no checkpoint but the last.
        recipe=replace(recipe, model=model, eval_every=0, save_every=100, keep_last=1),
        difficulties=difficulties,
        loops=loops,
        batches=batches,
    )


def pointer() -> Problem:
    """Pointer chasing on cycles of 11, trained on at most 6 hops.

    Hops that differ by 11 have one answer; none of these do.
    """
    hops = (1, 2, 4, 6, 8, 16, 32, 51)
    return problem(task_pointer(), "Pointer chasing on a cycle of 11 states", hops, hops, 1)


def pointer_on_a_gpu() -> Problem:
    """Pointer chasing over 16 states, trained on at most 8 hops."""
    hops = (1, 2, 4, 6, 8, 12, 16, 32, 64, 128, 256)
    return problem(pointer_16(), "Pointer chasing over 16 states", hops, hops, 1)


def p_hop() -> Problem:
    """p-hop induction over four symbols, trained on at most 4 hops."""
    hops = (1, 2, 3, 4, 6, 8, 16)
    found = problem(task_p_hop(), "p-hop induction over 4 symbols", hops, hops, 1)
    long = "Rows of more than 4 hops are longer than any in training, 8 symbols for each hop."
    return replace(found, notes=(long,))


def parity() -> Problem:
    """Prefix parity behind a start, trained on at most 24 bits."""
    return problem(task_parity(), "Prefix parity", (4, 8, 16, 24, 32, 48, 96, 192))


def words() -> Problem:
    """Products in S3, trained on at most 12 factors."""
    return problem(task_words(), "Products of permutations in S3", (3, 6, 9, 12, 18, 24, 48, 96))


def addition() -> Problem:
    """Sums of two numbers, trained on at most 3 digits."""
    return problem(task_addition(), "Addition of two numbers", (1, 2, 3, 4, 6, 12, 24))


def variables() -> Problem:
    """Programs of 8 assignments, trained on at most 4 in a row."""
    return problem(task_variables(), "Variables assigned to variables", (1, 2, 3, 4, 5, 6, 7, 8))


def knowledge() -> Problem:
    """Compositions of facts that no row holds, trained on at most 3 relations."""
    return problem(
        task_knowledge(), "Compositions of known relations", (1, 2, 3, 4, 5, 6, 8, 12, 24)
    )


def tutorial() -> Problem:
    """The public tutorial's experiment: a comparison of recipes on one network's sizes."""
    return _tutorial({})


def tutorial_on_a_gpu() -> Problem:
    """The same, with the recommended recipe for 5,000 steps beside it."""
    return _tutorial({"recommended-5000": tutorial_long()})


def _tutorial(more: dict[str, Recipe]) -> Problem:
    own = {
        "default": tutorial_default(),
        "whole-rows": tutorial_whole_rows(),
        "recommended": tutorial_recipe(),
        "with-start": tutorial_with_start(),
        **more,
    }
    return Problem(
        name="tutorial",
        title="The public tutorial's experiment: parity of 24 bits, 600 steps",
        recipe=own["default"],
        difficulties=(6, 12, 24, 48),
        loops=(1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16),
        batches=8,
        own=own,
        notes=(
            "Sizes, rows and steps are the tutorial's; rows are bits without a start. Recipes "
            "differ in what a recipe may choose: the loop's parts, the start of the weights, "
            "depths while training, learning rate; recommended lets rows grow bit by bit as they "
            "are learnt, where whole-rows trains on whole ones throughout. The best public probe "
            f"came to {PUBLIC_PROBE}, open-mythos 0.5.0 as published to {PUBLISHED}.",
            "Along 1 1 1 a causal network without absolute positions computes the same thing "
            "everywhere, so that without a start nothing can answer more than "
            f"{WITHOUT_START} of 24 bits. The recipe with-start is the recommended one on rows "
            "that begin with a token of their own, which are not the tutorial's.",
        ),
        levels={
            "best public probe": PUBLIC_PROBE,
            "0.5.0 as published": PUBLISHED,
            "most without a start": WITHOUT_START,
        },
    )


DEEP_TITLES = {
    "deep-words": "Products of permutations",
    "deep-sums": "Sums modulo a number",
    "deep-parity": "Parity behind a start",
    "deep-knowledge": "Compositions of known relations",
    "deep-p-hop": "p-hop induction over 3 symbols",
    "deep-pointer": "Pointer chasing on a cycle, hops told by chains",
}


# Four times the loops that the hardest of them need, 64, are among the columns.
CPU_ASKED: tuple[int, ...] = (4, 8, 16, 32)
CPU_LOOPS: tuple[int, ...] = (8, 32, 64, 128)
GPU_ASKED: tuple[int, ...] = (1, 2, 4, 8, 16, 24, 32)
GPU_LOOPS: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def deep(name: str, scale: Scale) -> Problem:
    """A task trained on difficulties of up to 8 and asked for up to 32."""
    tied = name == "deep-p-hop"
    asked = CPU_ASKED if scale == "cpu" else GPU_ASKED
    loops = CPU_LOOPS if scale == "cpu" else GPU_LOOPS
    found = problem(BY_NAME[name](scale), DEEP_TITLES[name], asked, asked if tied else loops, 4)
    return replace(found, name=name)


def pointer_64_on_a_gpu(layout: Literal["pairs", "joint"]) -> Problem:
    """Pointer chasing over 64 states, trained on at most 8 hops."""
    hops = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    return problem(pointer_64(layout), "Pointer chasing over 64 states", hops, hops, 1)


PROBLEMS: dict[str, Mapping[str, Callable[[], Problem]]] = {
    "cpu": {
        "pointer": pointer,
        "p-hop": p_hop,
        "parity": parity,
        "words": words,
        "tutorial": tutorial,
    },
    "gpu": {
        "pointer-16": pointer_on_a_gpu,
        "p-hop": p_hop,
        "parity": parity,
        "words": words,
        "addition": addition,
        "variables": variables,
        "knowledge": knowledge,
        "tutorial": tutorial_on_a_gpu,
    },
}

# Further tasks by size, which only their names, or that of a group, call up.
MORE: dict[str, Mapping[str, Callable[[], Problem]]] = {
    "cpu": {name: partial(deep, name, "cpu") for name in BY_NAME},
    "gpu": {
        "pointer-64": partial(pointer_64_on_a_gpu, "pairs"),
        "pointer-64-joint": partial(pointer_64_on_a_gpu, "joint"),
        **{name: partial(deep, name, "gpu") for name in BY_NAME},
    },
}
GROUPS: dict[str, tuple[str, ...]] = {
    "deep": tuple(BY_NAME),
    # What a CPU of two cores learns in about ten minutes, beside the same without loops.
    "deep-quick": ("deep-words", "deep-knowledge", "deep-sums", "deep-parity"),
}
