"""A shuffled order is a permutation, whatever its size, and its keys change it."""

from collections import Counter
from math import factorial

import numpy as np
import pytest
from hypothesis import given, strategies as st

from open_mythos.data.order import shuffled
from open_mythos.data.streams import Purpose


def order(size: int, seed: int = 0, index: int = 0) -> list[int]:
    return shuffled(np.arange(size), size, seed, Purpose.ORDER, index).tolist()


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63), index=st.integers(0, 2**40))
def test_every_place_is_taken_once(size: int, seed: int, index: int) -> None:
    assert sorted(order(size, seed, index)) == list(range(size))


@given(st.data())
def test_a_place_does_not_depend_on_who_else_asks(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 2**62))
    some = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    together = shuffled(np.array(some), size, 5, Purpose.ORDER, 7)
    alone = [int(shuffled(np.array([x]), size, 5, Purpose.ORDER, 7)[0]) for x in some]
    assert together.tolist() == alone
    assert all(0 <= place < size for place in alone)
    assert len(set(alone)) == len(set(some))


@pytest.mark.parametrize("size", [3, 4])
def test_every_order_of_a_few_comes_up_about_equally_often(size: int) -> None:
    draws = 20 * factorial(size)
    counts = Counter(tuple(order(size, seed)) for seed in range(draws))
    expected = draws / factorial(size)
    assert len(counts) == factorial(size)
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    freedom = factorial(size) - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5


def test_neighbours_do_not_stay_neighbours() -> None:
    size = 100_000
    places = np.array(order(size))
    # Of a random order, about two neighbours in a hundred thousand differ by one; and the
    # correlation of place and number has a standard deviation of 1 / sqrt(size) = 0.003.
    assert (np.abs(np.diff(places)) == 1).sum() < 15
    assert abs(np.corrcoef(places, np.arange(size))[0, 1]) < 0.016
    assert abs(np.corrcoef(places[1:], places[:-1])[0, 1]) < 0.016


def test_keys_change_the_order() -> None:
    found = {tuple(order(50, seed, index)) for seed in range(3) for index in range(3)}
    found.add(tuple(shuffled(np.arange(50), 50, 0, Purpose.MIXTURE).tolist()))
    assert len(found) == 10
