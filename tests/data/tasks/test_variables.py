"""Chains of assignments against an interpreter that looks names up one by one."""

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.pointer import Layout
from open_mythos.data.tasks.variables import Order, VariableChain
from open_mythos.errors import InputError


def read(task: VariableChain, row: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """The assignments in their order, left and right, and the variables asked."""
    v = task.variables
    if task.layout == "pairs":
        return [(row[2 * i], row[2 * i + 1]) for i in range(v)], row[2 * v :]
    base = v + task.values
    return [divmod(token, base) for token in row[:v]], [token - v * base for token in row[v:]]


def look_up(task: VariableChain, program: dict[int, int], name: int) -> tuple[int, int]:
    """The value of a variable, and how many assignments lead to it."""
    depth = 1
    while (name := program[name]) < task.variables:
        depth += 1
    return name, depth


@settings(max_examples=60, deadline=None)
@given(
    variables=st.integers(2, 20),
    values=st.integers(2, 9),
    layout=st.sampled_from(["pairs", "joint"]),
    order=st.sampled_from(["program", "shuffled"]),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_what_is_asked_lies_that_deep_and_has_that_value(
    variables: int, values: int, layout: Layout, order: Order, seed: int, data: st.DataObject
) -> None:
    task = VariableChain(
        variables=variables,
        values=values,
        queries=5,
        batch_size=3,
        layout=layout,
        order=order,
        max_level=1,
    )
    depth = data.draw(st.integers(1, variables))
    batch = task.evaluation_batch(depth, seed)
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        statements, asked = read(task, row)
        program = dict(statements)
        assert sorted(program) == list(range(variables))
        assert len(asked) == 5
        shown = len(row) - 5
        assert wanted[:shown] == [IGNORE] * shown
        for name, answer in zip(asked, wanted[shown:], strict=True):
            assert look_up(task, program, name) == (answer - task.offset, depth)
        assert max(look_up(task, program, name)[1] for name in program) == depth
        if order == "program":
            known: set[int] = set(range(variables, variables + values))
            for left, right in statements:
                assert right in known
                known.add(left)


def test_depths_are_about_equally_full() -> None:
    task = VariableChain(variables=14, batch_size=4)
    for row in task.evaluation_batch(4).ids.tolist():
        program = dict(read(task, row)[0])
        depths = [look_up(task, program, name)[1] for name in program]
        assert {depths.count(level) for level in range(1, 5)} == {3, 4}


def test_roots_are_as_many_whatever_the_depth() -> None:
    task = VariableChain(variables=15, roots=4, batch_size=4)
    assert task.max_difficulty == 12
    for depth in (2, 5, 12):
        for row in task.evaluation_batch(depth).ids.tolist():
            program = dict(read(task, row)[0])
            depths = [look_up(task, program, name)[1] for name in program]
            assert depths.count(1) == 4
            above = [depths.count(level) for level in range(2, depth + 1)]
            assert sum(above) == 11
            assert max(above) - min(above) <= 1
    with pytest.raises(InputError, match="depth is 13; this task ends at 12"):
        task.evaluation_batch(13)


def test_shuffled_programs_use_before_they_define() -> None:
    task = VariableChain(order="shuffled", batch_size=4)
    early = 0
    for row in task.evaluation_batch(4).ids.tolist():
        defined: set[int] = set()
        for left, right in read(task, row)[0]:
            early += right < task.variables and right not in defined
            defined.add(left)
    assert early > 10


def test_no_program_is_in_training_and_evaluation_in_whatever_order() -> None:
    # 720 orders of names and 8 values, one chain of six: 2000 trained of 5760.
    task = VariableChain(variables=6, batch_size=50, max_level=6)

    def programs(rows: list[list[int]]) -> set[frozenset[tuple[int, int]]]:
        return {frozenset(read(task, row)[0]) for row in rows}

    trained = programs([row for s in range(60) for row in task.batch(s).ids.tolist()])
    asked = programs(task.evaluation_batch(6).ids.tolist())
    assert len(asked) > 45
    assert not trained & asked


def test_no_chain_is_longer_than_there_are_variables() -> None:
    with pytest.raises(InputError, match="depth is 9; this task ends at 8"):
        VariableChain(variables=8).evaluation_batch(9)
    with pytest.raises(InputError, match="depth is 9; this task ends at 8"):
        VariableChain(variables=8, max_level=9)
