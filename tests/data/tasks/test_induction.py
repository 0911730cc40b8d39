"""p-hop induction against a search backwards, position by position."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.induction import InductionHops
from open_mythos.errors import InputError


def hop(string: list[int], at: int) -> int | None:
    """The last position up to here that follows the symbol found here."""
    for j in range(at, 0, -1):
        if string[j - 1] == string[at]:
            return j
    return None


def answer(string: list[int], at: int, hops: int) -> int:
    place: int | None = at
    for _ in range(hops):
        if place is not None:
            place = hop(string, place)
    return IGNORE if place is None else string[place]


@settings(max_examples=40, deadline=None)
@given(
    symbols=st.integers(3, 9),
    length=st.integers(8, 40),
    hops=st.integers(1, 6),
    seed=st.integers(0, 2**40),
    told=st.booleans(),
)
def test_answers_are_found_by_looking_back(
    symbols: int, length: int, hops: int, seed: int, told: bool
) -> None:
    task = InductionHops(symbols=symbols, length=length, batch_size=3, told=told)
    batch = task.evaluation_batch(hops, seed)
    front = 3 if told else 0
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        string = row[front:]
        assert len(string) == max(length, 2 * symbols * hops)
        assert all(a != b for a, b in pairwise(string))
        assert wanted[front:] == [answer(string, at, hops) for at in range(len(string))]
        assert [token - symbols for token in row[:front]] == [int(d) for d in f"{hops:03d}"[:front]]
        assert wanted[:front] == [IGNORE] * front


@pytest.mark.parametrize("hops", [1, 4, 16])
def test_most_positions_have_an_answer(hops: int) -> None:
    task = InductionHops(batch_size=50)
    batch = task.evaluation_batch(hops)
    assert batch.scored > 0.4 * batch.targets.numel()


def test_loops_tell_the_hops_unless_the_row_does() -> None:
    assert InductionHops(loops_per_level=2).loops_for(5) == 10
    told = InductionHops(told=True)
    assert told.loops_for(5) is None
    assert told.vocab_size == InductionHops().vocab_size + 10
    with pytest.raises(InputError, match="hops is 1000; this task ends at 999"):
        told.evaluation_batch(1000)


def test_no_string_is_in_training_and_evaluation() -> None:
    # Of the 12,288 strings 2000 are trained, a seventh of those asked if not split.
    task = InductionHops(symbols=3, length=13, batch_size=50, max_level=2)
    trained = {tuple(row) for s in range(40) for row in task.batch(s).ids.tolist()}
    asked = {tuple(row) for s in range(4) for row in task.evaluation_batch(1, s).ids.tolist()}
    assert len(asked) > 190
    assert not trained & asked


def test_two_symbols_are_refused() -> None:
    with pytest.raises(InputError, match="symbols is 2; it must be at least 3"):
        InductionHops(symbols=2)


def test_the_symbol_read_is_never_the_answer_of_one_hop() -> None:
    batch = InductionHops(batch_size=20).evaluation_batch(1)
    scored = batch.targets != IGNORE
    assert not torch.equal(batch.ids, batch.targets)
    assert bool((batch.ids[scored] != batch.targets[scored]).all())


def test_a_ring_tells_the_hops_of_the_same_strings_by_a_difference() -> None:
    plain = InductionHops(symbols=4, length=20, batch_size=50, max_level=2)
    told = replace(plain, ring=7)
    one, other = plain.batch(3), told.batch(3)
    assert (one.n_loops, one.level) == (other.n_loops, other.level)
    one, other = plain.evaluation_batch(5, 3), told.evaluation_batch(5, 3)
    assert (one.ids == other.ids[:, 2:]).all()
    assert (one.targets == other.targets[:, 2:]).all()
    assert (other.targets[:, :2] == IGNORE).all()
    lower, upper = other.ids[:, 0] - 4, other.ids[:, 1] - 11
    assert set(lower.tolist()) == set(upper.tolist()) == set(range(7))
    assert ((upper - lower) % 7 == 5).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ring": 8}, "max_level is 8, but numbers on a ring of 8 differ by 7 at most"),
        ({"ring": 9, "told": True}, "told is True and there is a ring"),
    ],
)
def test_rings_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InductionHops(**fields)
    with pytest.raises(InputError, match="hops is 9; this task ends at 8"):
        InductionHops(ring=9).evaluation_batch(9)
