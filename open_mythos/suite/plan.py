"""Which cells the suite trains: task x design x seed, each with its recipe and its map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from open_mythos.config.designs import DESIGNS, design
from open_mythos.config.overrides import to_plain
from open_mythos.errors import ConfigError, did_you_mean
from open_mythos.suite.problems import GROUPS, MORE, PROBLEMS, Problem
from open_mythos.suite.untied import UNTIED, typical_loops, untied, without_loops
from open_mythos.suite.verdict import Trained
from open_mythos.train.checks import whole
from open_mythos.train.recipe import DepthConfig, Recipe


Size = Literal["cpu", "gpu"]

# Designs that were published with one number of loops for all of training.
FIXED_DEPTH = ("om05",)
DEFAULT_DESIGNS: dict[Size, tuple[str, ...]] = {
    "cpu": ("mythos", "om05", "parcae"),
    "gpu": ("mythos", *(name for name in DESIGNS if name != "mythos")),
}
SEEDS: dict[Size, int] = {"cpu": 2, "gpu": 3}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training and its map.

    Attributes:
        problem: Name of the task.
        design: Name of the design.
        recipe: How it is trained, its seed included.
        difficulties: Rows of the map.
        loops: Its columns.
        batches: Held-out batches behind each of its entries.
    """

    problem: str
    design: str
    recipe: Recipe
    difficulties: tuple[int, ...]
    loops: tuple[int, ...]
    batches: int

    @property
    def seed(self) -> int:
        """Of weights and data."""
        return self.recipe.seed

    @property
    def name(self) -> str:
        """How it is called on the console."""
        return f"{self.problem} {self.design} seed {self.seed}"

    @property
    def place(self) -> Path:
        """Its folder, below that of the suite."""
        return Path("cells") / self.problem / self.design / f"seed-{self.seed}"

    @property
    def asked(self) -> dict[str, Any]:
        """What its result depends on, in plain values."""
        return {
            "recipe": {k: v for k, v in to_plain(self.recipe).items() if k != "device"},
            "difficulties": list(self.difficulties),
            "loops": list(self.loops),
            "batches": self.batches,
        }

    @cached_property
    def trained(self) -> Trained:
        """What the verdict has to know."""
        task = self.recipe.data.build_task(seed=0)
        granted = task.loops_for(task.max_level)
        depth = self.recipe.depth
        drawn = int(depth.mean) if depth.kind == "fixed" else depth.max
        return Trained(
            difficulty=task.max_level,
            loops=drawn if granted is None else granted + task.most_spare,
            per_level=0 if task.free else (granted or 0) // task.max_level,
            chance={d: task.chance_at(d) for d in self.difficulties},
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The suite.

    Attributes:
        size: "cpu" or "gpu".
        problems: Name -> task, in the order in which they are trained.
        designs: Names of the designs.
        cells: What is trained.
    """

    size: Size
    problems: dict[str, Problem]
    designs: tuple[str, ...]
    cells: tuple[Cell, ...]

    def of(self, problem: str) -> tuple[Cell, ...]:
        """The cells of one task."""
        return tuple(cell for cell in self.cells if cell.problem == problem)


def make_plan(
    size: Size,
    *,
    tasks: Sequence[str] = (),
    designs: Sequence[str] = (),
    seeds: int = 0,
    steps: int = 0,
    device: str = "auto",
) -> Plan:
    """The suite of a size, or the part of it that is named.

    Args:
        size: "cpu", "gpu".
        tasks: Names of tasks, of either size, or of groups of them; empty: the size's own.
        designs: Names of designs, or "untied"; empty: the size's own.
        seeds: How many seeds, from 0 on; 0: as many as the size has.
        steps: Optimizer steps of every training; 0: as the recipes have it.
        device: Where to train and to ask.

    Raises:
        ConfigError: If there is no such size, task or design.
    """
    if size not in get_args(Size):
        raise ConfigError(f"size is {size!r}; {did_you_mean(str(size), get_args(Size))}")
    whole("seeds", seeds, 0)
    whole("steps", steps, 0)
    known = known_problems(size)
    names = [one for name in tasks or PROBLEMS[size] for one in GROUPS.get(name, (name,))]
    problems = {name: found(known, name)() for name in names}
    chosen = tuple(designs or DEFAULT_DESIGNS[size])
    for name in chosen:
        if name not in (*DESIGNS, UNTIED):
            arms = [*DESIGNS, UNTIED]
            raise ConfigError(f"no design is called {name!r}; {did_you_mean(name, arms)}")
    cells = [
        cell(problem, name, seed, steps, device)
        for problem in problems.values()
        for name in (problem.own or chosen)
        for seed in range(seeds or SEEDS[size])
    ]
    return Plan(size=size, problems=problems, designs=chosen, cells=tuple(cells))


def known_problems(size: Size) -> dict[str, Callable[[], Problem]]:
    """Every task by name; where both sizes have one of a name, that of `size`."""
    tables = [
        table[of]
        for of in sorted(PROBLEMS, key=lambda of: of == size)
        for table in (PROBLEMS, MORE)
    ]
    return {name: make for known in tables for name, make in known.items()}


def found(known: dict[str, Callable[[], Problem]], name: str) -> Callable[[], Problem]:
    """The task of a name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in known:
        raise ConfigError(
            f"the suite has no task {name!r}; {did_you_mean(name, [*known, *GROUPS])}"
        )
    return known[name]


def cell(problem: Problem, name: str, seed: int, steps: int, device: str) -> Cell:
    """One cell: the problem's recipe on a design's network."""
    recipe = problem.own.get(name) or on_design(problem, name)
    recipe = replace(
        recipe,
        name=f"{problem.name}-{name}-{seed}",
        seed=seed,
        steps=steps or recipe.steps,
        device=device,
    )
    return Cell(
        problem=problem.name,
        design=name,
        recipe=recipe,
        difficulties=problem.difficulties,
        loops=(1,) if name == UNTIED else problem.loops,
        batches=problem.batches,
    )


def on_design(problem: Problem, name: str) -> Recipe:
    """The problem's recipe with a design's network, trained at one depth if it was published so.

    "untied" is no design of a loop but the baseline without one. Where the row does not say its
    difficulty the loops do, in every design. The core's feed-forward stays that of the problem's
    base, experts or dense: designs differ in their loops here.
    """
    if name == UNTIED:
        return untied(problem.recipe)
    base = problem.recipe.model
    model = replace(design(name, base), core_ffn=base.core_ffn)
    recipe = replace(problem.recipe, model=model)
    if name in FIXED_DEPTH and not problem.per_level:
        depth = DepthConfig(kind="fixed", mean=typical_loops(recipe))
        recipe = replace(recipe, data=without_loops(recipe.data), depth=depth)
    return recipe
