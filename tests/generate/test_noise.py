"""Philox against published answers and a twin in plain ints; draws against their distribution."""

import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats

from open_mythos.generate.noise import (
    Key,
    Purpose,
    exponentials,
    fresh_seed,
    philox,
    uniforms,
    words,
)


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """The published rounds, one number at a time."""
    low = 0xFFFFFFFF
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k, right & low, (left >> 32) ^ d ^ m, left & low
        k, m = (k + 0x9E3779B9) & low, (m + 0xBB67AE85) & low
    return [a, b, c, d]


def in_torch(counter: list[int], key: list[int]) -> list[int]:
    out = philox(
        tuple(torch.tensor(w) for w in counter),  # type: ignore[arg-type]
        tuple(torch.tensor(w) for w in key),  # type: ignore[arg-type]
    )
    return [int(w) for w in out]


def test_philox_gives_the_known_answers_of_its_authors() -> None:
    """The kat_vectors file of Random123."""
    ones = 0xFFFFFFFF
    assert in_torch([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert in_torch([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
    assert in_torch(*pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    index=st.integers(0, 2**20),
    position=st.integers(0, 2**31),
    purpose=st.sampled_from(list(Purpose)),
    count=st.integers(1, 13),
)
def test_words_are_the_rounds_of_their_names(
    seed: int, index: int, position: int, purpose: Purpose, count: int
) -> None:
    got = words([Key(seed, index, position)], count, purpose=purpose)[0].tolist()
    bits = seed % 2**64
    key = [bits % 2**32, bits // 2**32]
    blocks = [plain_philox([i, position, index, purpose], key) for i in range(4)]
    assert got == [word for block in blocks for word in block][:count]


@given(data=st.data())
def test_a_row_does_not_depend_on_its_company(data: st.DataObject) -> None:
    names = st.builds(Key, st.integers(0, 9), st.integers(0, 3), st.integers(0, 99))
    keys = data.draw(st.lists(names, min_size=1, max_size=6))
    together = exponentials(keys, 11)
    for row, key in enumerate(keys):
        assert torch.equal(together[row], exponentials([key], 11)[0])
        assert torch.equal(together[row, :5], exponentials([key], 5)[0])


def test_every_part_of_the_name_matters() -> None:
    base = exponentials([Key(1, 2, 3)], 8)
    others = [Key(0, 2, 3), Key(1 + 2**32, 2, 3), Key(-1, 2, 3), Key(1, 0, 3), Key(1, 2, 4)]
    assert all(not torch.equal(base, exponentials([key], 8)) for key in others)
    assert not torch.equal(base, exponentials([Key(1, 2, 3)], 8, purpose=Purpose.ACCEPT))


def test_draws_are_uniform_and_exponential() -> None:
    """Kolmogorov-Smirnov over positions and over tokens; the seeds are fixed."""
    over_tokens = uniforms([Key(5, 0, 0)], 20_000).flatten().numpy()
    over_positions = uniforms([Key(5, 0, p) for p in range(20_000)], 1).flatten().numpy()
    assert stats.kstest(over_tokens, "uniform").pvalue > 1e-3
    assert stats.kstest(over_positions, "uniform").pvalue > 1e-3
    clocks = exponentials([Key(6, 0, 0)], 20_000).flatten().numpy()
    assert stats.kstest(clocks, "expon").pvalue > 1e-3
    assert clocks.min() > 0.0


def test_the_largest_word_gives_a_clock_that_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 rounds (2^32 - 0.5) / 2^32 to 1, whose exponential would be infinite."""
    top = torch.tensor([[2**32 - 1, 0]])
    monkeypatch.setattr("open_mythos.generate.noise._words", lambda *_: top.clone())
    last, first = exponentials([Key(0, 0, 0)], 2)[0].tolist()
    assert 16.0 < last < 17.0
    assert 0.0 < first < 1e-9


def test_a_fresh_seed_follows_torch_or_the_generator_given() -> None:
    torch.manual_seed(3)
    one = fresh_seed()
    torch.manual_seed(3)
    assert fresh_seed() == one
    assert fresh_seed() != one
    made = [fresh_seed(torch.Generator().manual_seed(4)) for _ in range(2)]
    assert made[0] == made[1]
