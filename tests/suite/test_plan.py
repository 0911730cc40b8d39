from dataclasses import replace

import pytest

from open_mythos.config.overrides import from_plain
from open_mythos.errors import ConfigError
from open_mythos.suite.plan import SEEDS, Plan, cell, make_plan
from open_mythos.suite.problems import PROBLEMS, Problem
from open_mythos.train.recipe import Recipe


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_a_size_is_its_tasks_by_its_designs_by_its_seeds(size: str) -> None:
    plan = make_plan(size)  # type: ignore[arg-type]
    assert tuple(plan.problems) == tuple(PROBLEMS[size])
    ordinary = [p for p in plan.problems.values() if not p.own]
    expected = len(ordinary) * len(plan.designs) + sum(len(p.own) for p in plan.problems.values())
    assert len(plan.cells) == expected * SEEDS[size]  # type: ignore[index]
    assert len({one.place for one in plan.cells}) == len({one.name for one in plan.cells})
    assert len({one.name for one in plan.cells}) == len(plan.cells)
    assert "om05" in plan.designs


def test_parts_are_named() -> None:
    plan = make_plan("cpu", tasks=["words", "pointer"], designs=["om05"], seeds=3, steps=7)
    assert [one.name for one in plan.cells[:2]] == ["words om05 seed 0", "words om05 seed 1"]
    assert [one.problem for one in plan.cells] == ["words"] * 3 + ["pointer"] * 3
    assert {one.recipe.steps for one in plan.cells} == {7}
    assert plan.of("pointer") == plan.cells[3:]
    other = make_plan("cpu", tasks=["pointer-16"], seeds=1)
    assert list(other.problems) == ["pointer-16"]  # a task of the other size, by its name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"tasks": ["wrds"]}, "did you mean 'words'"),
        ({"designs": ["om5"]}, "did you mean 'om05'"),
        ({"seeds": -1}, "seeds is -1"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_a_wrong_name_is_met_with_the_right_one(words: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_plan("cpu", **words)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="size is 'tpu'"):
        make_plan("tpu")  # type: ignore[arg-type]


def test_designs_differ_in_their_network_and_what_was_published_with_it(
    free: Problem, tied: Problem
) -> None:
    for problem, fixed in ((free, True), (tied, False)):
        ours, theirs = (cell(problem, name, 3, 0, "cpu") for name in ("mythos", "om05"))
        assert ours.recipe.model != theirs.recipe.model
        same = replace(
            theirs.recipe, model=ours.recipe.model, name=ours.recipe.name, depth=ours.recipe.depth
        )
        assert same == ours.recipe
        assert (theirs.recipe.depth.kind == "fixed") is fixed
        assert ours.recipe.depth == problem.recipe.depth
        assert {ours.recipe.seed, theirs.recipe.seed} == {3}


def test_what_was_trained_follows_from_the_recipe(free: Problem, tied: Problem) -> None:
    found = cell(free, "mythos", 0, 0, "cpu").trained
    assert (found.difficulty, found.loops, found.per_level) == (2, 2, 0)
    assert found.chance == {1: 1 / 3, 2: 1 / 3, 4: 1 / 3}
    # Uniform on 1..2 has a mean of 1.5, which a fixed number can only round.
    assert cell(free, "om05", 0, 0, "cpu").trained.loops == 2
    found = cell(tied, "om05", 0, 0, "cpu").trained
    assert (found.difficulty, found.loops, found.per_level) == (2, 2, 1)


def test_a_recipe_of_its_own_is_taken_as_it_is(free: Problem) -> None:
    special = replace(free.recipe, steps=5, router_bias_step=0.5)
    problem = replace(free, own={"special": special})
    found = cell(problem, "special", 1, 0, "cpu").recipe
    assert found == replace(special, name="free-special-1", seed=1)


def test_what_a_cell_is_asked_survives_and_does_not_depend_on_the_device(plan: Plan) -> None:
    one = plan.cells[0]
    recipe = from_plain(Recipe, {**one.asked["recipe"], "device": "cpu"})
    assert recipe == one.recipe
    elsewhere = replace(one, recipe=replace(one.recipe, device="meta"))
    assert elsewhere.asked == one.asked
    assert replace(one, loops=(1,)).asked != one.asked
