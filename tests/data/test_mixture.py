"""A mixture gives each source its share exactly, and reads each without loss or repeats."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.data.mixture import BLOCK, Mixture
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError


def part(first: int, n: int = 100, seq_len: int = 5, seed: int = 0) -> TokenWindows:
    """Text of the numbers from `first` on, so that an id tells its source."""
    tokens = np.arange(first, first + n)
    return TokenWindows(tokens, seq_len, 1, seed, first + n, starts=np.array([0, n // 2]))


def mixture(*weights: float, batch_size: int = 4, seed: int = 0) -> Mixture:
    parts = tuple(part(1000 * i) for i in range(len(weights)))
    return Mixture(parts, weights, batch_size, seed)


some_weights = st.lists(st.floats(0.001, 100), min_size=1, max_size=5)


@given(weights=some_weights, blocks=st.integers(1, 6), seed=st.integers(0, 2**40))
def test_each_source_gives_its_share_and_every_sample_once(
    weights: list[float], blocks: int, seed: int
) -> None:
    n = blocks * BLOCK
    origins = mixture(*weights, seed=seed).origins(range(n))
    counts = Counter(source for source, _ in origins)
    assert counts.total() == n
    for source, weight in enumerate(weights):
        numbers = sorted(number for s, number in origins if s == source)
        assert numbers == list(range(counts[source]))
        assert abs(counts[source] - n * weight / sum(weights)) <= source + 1


@given(weights=some_weights, start=st.integers(0, 10**12))
def test_far_on_the_shares_still_hold(weights: list[float], start: int) -> None:
    """Counted from any block on: the origins there are numbered where its share says they are."""
    first = start - start % BLOCK
    origins = mixture(*weights).origins(range(first, first + BLOCK))
    for source, number in origins:
        expected = first * weights[source] / sum(weights)
        assert abs(number - expected) <= BLOCK + 10 + 1e-9 * expected


def test_neighbours_are_shuffled() -> None:
    origins = mixture(1, 1).origins(range(4 * BLOCK))
    sources = np.array([source for source, _ in origins])
    # Unshuffled, two equal sources would take turns, and every second row be of one of them.
    assert 0.4 < sources[::2].mean() < 0.6
    assert 0.4 < (sources[1:] == sources[:-1]).mean() < 0.6
    assert origins != mixture(1, 1, seed=1).origins(range(4 * BLOCK))


@given(weights=some_weights, step=st.integers(0, 10**6), size=st.integers(1, 9))
def test_rows_come_from_where_they_say(weights: list[float], step: int, size: int) -> None:
    mixed = mixture(*weights, batch_size=size)
    batch = mixed.batch(step)
    origins = mixed.origins(range(step * size, step * size + size))
    for row, (source, number) in enumerate(origins):
        alone = mixed.parts[source].samples([number])
        assert torch.equal(batch.ids[row], alone.ids[0])
        assert torch.equal(batch.targets[row], alone.targets[0])
        assert batch.documents is not None
        assert alone.documents is not None
        assert torch.equal(batch.documents[row], alone.documents[0])
    some = list(range(0, size, 2))
    assert torch.equal(mixed.batch(step, 0, some).ids, batch.ids[some])


def test_a_mixture_is_as_wide_as_its_widest_part() -> None:
    mixed = mixture(3, 1)
    assert (mixed.vocab_size, mixed.seq_len, mixed.max_level) == (1100, 5, 0)
    assert mixed.real_share == mixed.parts[0].real_share == 99 / 100
    plain = Mixture((TokenWindows(np.arange(9), 3, 1, 0, 9),), (1,), 2, 0)
    assert plain.batch(0).documents is None


@pytest.mark.parametrize(
    ("parts", "weights", "words"),
    [
        ((), (), "a mixture has a weight for every source"),
        ((part(0),), (1.0, 2.0), "1 sources and 2 weights"),
        ((part(0),), (0.0,), "a weight is 0.0"),
        ((part(0),), (float("inf"),), "a weight is inf"),
        ((part(0), part(0, seq_len=6)), (1.0, 1.0), r"differ in seq_len: \[5, 6\]"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    parts: tuple[TokenWindows, ...], weights: tuple[float, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Mixture(parts, weights, 1, 0)


def test_steps_levels_and_rows_are_checked() -> None:
    for words, call in (
        ("step is -1", lambda: mixture(1).batch(-1)),
        ("level is 1", lambda: mixture(1).batch(0, 1)),
        ("row 4", lambda: mixture(1).batch(0, 0, [4])),
    ):
        with pytest.raises(InputError, match=words):
            call()
