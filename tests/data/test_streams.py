"""Streams repeat themselves, and differ as soon as one of their three numbers differs."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, strategies as st

from open_mythos.data.streams import (
    Purpose,
    require_level,
    require_rows,
    require_whole,
    stream,
    uniforms,
)
from open_mythos.errors import InputError


@given(seed=st.integers(0, 2**70), step=st.integers(0, 2**40), purpose=st.sampled_from(Purpose))
def test_a_stream_is_fixed_by_its_three_numbers(seed: int, step: int, purpose: Purpose) -> None:
    first, again = stream(seed, purpose, step), stream(seed, purpose, step)
    assert np.array_equal(first.integers(2**62, size=8), again.integers(2**62, size=8))


def test_no_two_streams_are_alike() -> None:
    # A collision by chance has probability below 1e-14.
    firsts = [
        int(stream(seed, purpose, step).integers(2**62))
        for seed, purpose, step in product(range(12), Purpose, range(12))
    ]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_only_ints_are_whole(value: object) -> None:
    with pytest.raises(InputError, match="width must be an int"):
        require_whole("width", value)  # type: ignore[arg-type]


def test_numpy_ints_are_whole_and_bounds_hold() -> None:
    require_whole("width", np.int32(1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="width is 0"):
        require_whole("width", 0)
    with pytest.raises(InputError, match="seed is -1"):
        stream(-1, Purpose.TRAINING)
    with pytest.raises(InputError, match="level is 4"):
        require_level(4, max_level=3)


@given(first=st.integers(0, 2**40), count=st.integers(0, 50), data=st.data())
def test_a_uniform_depends_on_its_own_number_alone(
    first: int, count: int, data: st.DataObject
) -> None:
    whole = uniforms(7, Purpose.ROW_DEPTH, first, count)
    assert whole.shape == (count,)
    cut = data.draw(st.integers(0, count))
    parts = [
        uniforms(7, Purpose.ROW_DEPTH, first, cut),
        uniforms(7, Purpose.ROW_DEPTH, first + cut, count - cut),
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_uniforms_are_the_words_of_philox_in_their_order() -> None:
    """Against numpy's own generator, which reads one word after the other."""
    branch = np.random.SeedSequence(3, spawn_key=(int(Purpose.READS),))
    plain = np.random.Generator(np.random.Philox(branch)).random(1000)
    assert np.array_equal(uniforms(3, Purpose.READS, 0, 1000), plain)
    assert np.array_equal(uniforms(3, Purpose.READS, 501, 7), plain[501:508])


def test_uniforms_of_other_seeds_and_purposes_are_others() -> None:
    rows = [uniforms(seed, purpose, 0, 64) for seed in range(3) for purpose in Purpose]
    assert len(np.unique(np.concatenate(rows))) == 64 * len(rows)
    everything = np.concatenate(rows)
    assert 0 <= everything.min() <= everything.max() < 1
    with pytest.raises(InputError, match="first is -1"):
        uniforms(0, Purpose.READS, -1, 3)


def test_rows_are_those_of_a_batch() -> None:
    assert list(require_rows(None, 3)) == [0, 1, 2]
    assert require_rows([2, 0], 3) == [2, 0]
    with pytest.raises(InputError, match="row 3 is asked for"):
        require_rows([0, 3], 3)
    with pytest.raises(InputError, match="row must be an int"):
        require_rows([0.0], 3)  # type: ignore[list-item]
