"""Addition against Python's integers."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.addition import Addition, Dial


def problems(row: list[int], wanted: list[int]) -> list[tuple[list[str], str]]:
    """Read a row as text: the operands and the answer of every problem, highest digit first."""
    found, operands, number, answer = [], [], "", ""
    for token, target in zip([*row, 0], [*wanted, IGNORE], strict=True):
        if token == 12:
            answer += str(target)
            continue
        assert target == IGNORE
        if answer:
            found.append((operands, answer[::-1]))
            operands, answer = [], ""
        if token >= 10:
            operands.append(number[::-1])
            number = ""
        else:
            number += str(token)
    return found


@settings(max_examples=40, deadline=None)
@given(
    dial=st.sampled_from(["digits", "operands"]),
    fixed=st.integers(2, 5),
    difficulty=st.integers(1, 25),
    seed=st.integers(0, 2**40),
)
def test_sums_are_what_integers_give(dial: Dial, fixed: int, difficulty: int, seed: int) -> None:
    task = Addition(dial=dial, operands=fixed, digits=fixed, queries=3, batch_size=2)
    batch = task.evaluation_batch(difficulty, seed)
    operands, digits = (fixed, difficulty) if dial == "digits" else (difficulty + 1, fixed)
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        read = problems(row, wanted)
        assert len(read) == 3
        for numbers, answer in read:
            assert [len(number) for number in numbers] == [digits] * operands
            assert int(answer) == sum(map(int, numbers))
            assert len(answer) == len(str(operands * int("9" * digits)))


@pytest.mark.parametrize(("operands", "digits"), [(2, 1), (3, 1), (5, 1), (2, 2)])
def test_chance_is_the_share_of_the_likeliest_digit_of_every_place(
    operands: int, digits: int
) -> None:
    numbers = range(10**digits)
    width = len(str(operands * max(numbers)))
    sums = [f"{sum(each):0{width}d}" for each in product(numbers, repeat=operands)]
    likeliest = [Counter(column).most_common(1)[0][1] for column in zip(*sums, strict=True)]
    task = Addition(operands=operands)
    assert task.chance_at(digits) == pytest.approx(sum(likeliest) / len(sums) / width)


def test_eleven_operands_and_more_spill_over_two_places() -> None:
    task = Addition(dial="operands", digits=1)
    assert task.shape(11) == (12, 1, 3)
    batch = task.evaluation_batch(11)
    assert batch.ids.shape[1] == task.row_length(11)
    assert 0.1 < task.chance_at(11) < 1


def test_no_sum_is_in_training_and_evaluation_in_whatever_order() -> None:
    # 5050 sums of two digits: nearly all of them would come up in 7680 problems of training.
    task = Addition(max_level=2, batch_size=64)

    def sums(rows: list[list[int]], targets: list[list[int]]) -> set[tuple[str, ...]]:
        pairs = zip(rows, targets, strict=True)
        return {tuple(sorted(numbers)) for row in pairs for numbers, _ in problems(*row)}

    trained: set[tuple[str, ...]] = set()
    for step in range(60):
        batch = task.batch(step)
        if batch.level == 2:
            trained |= sums(batch.ids.tolist(), batch.targets.tolist())
    held_out = task.evaluation_batch(2)
    asked = sums(held_out.ids.tolist(), held_out.targets.tolist())
    assert len(trained) > 2500
    assert len(asked) > 200
    assert not trained & asked
