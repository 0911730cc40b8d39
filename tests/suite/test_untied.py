"""The untied baseline: the loop's work, rows and rates, and nothing that loops."""

from dataclasses import replace

import pytest

from open_mythos.config.budget import flops_per_token
from open_mythos.config.designs import design
from open_mythos.errors import ConfigError
from open_mythos.suite.plan import cell
from open_mythos.suite.problems import GROUPS, MORE, Problem
from open_mythos.suite.untied import UNTIED, typical_loops, untied, without_loops
from open_mythos.train.depth_recipes import pointer_16


NAMES = [(size, name) for size in MORE for name in GROUPS["deep"]]


@pytest.mark.parametrize(("size", "name"), NAMES)
def test_it_sees_the_same_rows_and_does_the_same_work_in_one_pass(size: str, name: str) -> None:
    looped = MORE[size][name]().recipe
    ours = replace(design("mythos", looped.model), core_ffn=looped.model.core_ffn)
    plain, loops = untied(looped), typical_loops(looped)
    work = flops_per_token(ours, loops).total
    # What differs is what the injection and the halting probability cost.
    assert flops_per_token(plain.model, 1).total == pytest.approx(work, rel=0.01)
    one, other = (r.data.build_task(seed=3) for r in (looped, plain))
    task = looped.data.build_task(seed=0)
    assert loops == task.max_level + task.most_spare // 2
    for step in range(4):
        for level in (1, 8):
            a, b = one.batch(step, level, [0]), other.batch(step, level, [0])
            assert (a.ids == b.ids).all()
            assert (a.targets == b.targets).all()
            assert b.n_loops is None
    same = replace(plain, model=looped.model, data=looped.data, depth=looped.depth)
    assert same == looped


def test_loops_that_are_drawn_are_counted_by_their_mean(free: Problem, tied: Problem) -> None:
    assert typical_loops(free.recipe) == 2  # uniform on 1 .. 2
    assert typical_loops(tied.recipe) == 2
    assert without_loops(tied.recipe.data).build_task(seed=0).loops_for(2) is None
    found = cell(tied, UNTIED, 0, 0, "cpu")
    assert (found.loops, found.trained.loops, found.trained.per_level) == ((1,), 1, 0)
    assert found.recipe.model.core_layers == 2


def test_rows_that_say_no_hops_are_no_question_without_loops() -> None:
    with pytest.raises(ConfigError, match="loops_per_hop is 0"):
        untied(pointer_16())
