"""A suite of seconds: the smallest network on the smallest tasks, two steps each."""

from dataclasses import replace
from pathlib import Path

import pytest

from open_mythos.eval.loop_curve import DepthMap
from open_mythos.suite.cell import CellResult
from open_mythos.suite.plan import Cell, Plan, cell
from open_mythos.suite.problems import Problem
from open_mythos.train.networks import small
from open_mythos.train.recipe import CurriculumConfig, DataConfig, DepthConfig, Recipe


def tiny(kind: str, loops_per_level: int, steps: int = 2) -> Problem:
    """Sums modulo 3 of up to two terms, the loops free or tied to their number."""
    recipe = Recipe(
        name=kind,
        model=replace(small(vocab_size=4, dim=16, max_seq_len=16), expert_dim=8, max_loop_iters=4),
        data=DataConfig(
            kind="sums",
            batch_size=4,
            task={"modulus": 3, "max_level": 2, "loops_per_level": loops_per_level},
        ),
        depth=DepthConfig(kind="uniform", min=1, max=2),
        curriculum=CurriculumConfig(first_level=0),
        steps=steps,
        eval_every=0,
        save_every=0,
        device="cpu",
    )
    return Problem(
        name=kind,
        title=f"Sums, {kind}",
        recipe=recipe,
        difficulties=(1, 2, 4),
        loops=(1, 2, 4),
        batches=1,
    )


@pytest.fixture
def free() -> Problem:
    return tiny("free", 0)


@pytest.fixture
def tied() -> Problem:
    return tiny("tied", 1)


def plan_of(*problems: Problem, designs: tuple[str, ...] = ("mythos",), seeds: int = 1) -> Plan:
    cells = [
        cell(problem, name, seed, 0, "cpu")
        for problem in problems
        for name in designs
        for seed in range(seeds)
    ]
    named = {problem.name: problem for problem in problems}
    return Plan(size="cpu", problems=named, designs=designs, cells=tuple(cells))


@pytest.fixture
def plan(free: Problem, tied: Problem) -> Plan:
    """Two tasks, two designs, two seeds."""
    return plan_of(free, tied, designs=("mythos", "om05"), seeds=2)


def made_up(one: Cell, rows: tuple[tuple[float, ...], ...]) -> CellResult:
    """A result with these accuracies."""
    found = DepthMap(one.problem, one.difficulties, one.loops, rows, 64)
    return CellResult(map=found, steps=2, parameters=9, level=0, rho_a=0.01, seconds=1.5)


@pytest.fixture
def results(plan: Plan) -> list[tuple[Cell, CellResult]]:
    """Seed 0 of "mythos" is right everywhere, seed 1 half as often; "om05" loses what it had."""
    good = ((1.0, 1.0, 1.0), (0.9, 1.0, 1.0), (0.5, 0.7, 1.0))
    bad = ((1.0, 1.0, 0.3), (0.9, 0.9, 0.3), (0.4, 0.4, 0.3))
    found = []
    for one in plan.cells:
        rows = good if one.design == "mythos" else bad
        factor = 0.5 if one.seed and one.design == "mythos" else 1.0
        found.append((one, made_up(one, tuple(tuple(factor * v for v in row) for row in rows))))
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "suite"
