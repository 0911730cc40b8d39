"""Windows show real stretches of the text, and evaluation scores each token exactly once."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.windows import TokenWindows
from open_mythos.errors import InputError


def windows(n: int, seq_len: int, batch_size: int = 3, seed: int = 0) -> TokenWindows:
    # Token i is the number i, so that a token tells its own place in the stream.
    return TokenWindows(np.arange(n, dtype=np.uint16), seq_len, batch_size, seed, vocab_size=n)


@given(data=st.data(), seq_len=st.integers(1, 17), batch_size=st.integers(1, 5))
def test_evaluation_predicts_every_target_exactly_once(
    data: st.DataObject, seq_len: int, batch_size: int
) -> None:
    n = data.draw(st.integers(seq_len + 1, 150))
    seen: list[int] = []
    for batch in windows(n, seq_len, batch_size).evaluation_batches():
        assert batch.ids.shape[1] == seq_len
        assert 1 <= batch.ids.shape[0] <= batch_size
        scored = batch.targets != IGNORE
        # Each target follows its input in the stream.
        assert torch.equal(batch.targets[scored], batch.ids[scored] + 1)
        seen.extend(batch.targets[scored].tolist())
    assert seen == list(range(1, n))


@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**9),
    seq_len=st.integers(1, 12),
    extra=st.integers(1, 40),
)
def test_a_training_window_is_a_stretch_of_text(
    seed: int, step: int, seq_len: int, extra: int
) -> None:
    source = windows(seq_len + extra, seq_len, seed=seed)
    batch = source.batch(step)
    assert torch.equal(batch.targets, batch.ids + 1)
    assert torch.equal(batch.ids, batch.ids[:, :1] + torch.arange(seq_len))
    assert batch.ids.shape == (3, seq_len)
    assert batch.ids.dtype == torch.int64
    assert batch.n_loops is None


@given(seed=st.integers(0, 2**40), steps=st.permutations(range(5)))
def test_a_batch_does_not_depend_on_the_calls_before_it(seed: int, steps: list[int]) -> None:
    used, fresh = windows(500, 9, seed=seed), windows(500, 9, seed=seed)
    seen = {step: used.batch(step).ids for step in steps}
    for step in sorted(seen, reverse=True):
        assert torch.equal(seen[step], fresh.batch(step).ids)


def test_every_start_is_drawn_and_about_equally_often() -> None:
    source = windows(11, 4, batch_size=1000)
    starts = torch.cat([source.batch(step).ids[:, 0] for step in range(7)])
    counts = torch.bincount(starts, minlength=7)
    assert len(counts) == 7  # 11 tokens hold 7 windows of 4 inputs and 1 more target
    # 1000 each expected, standard deviation 29: five of them.
    assert (counts - 1000).abs().max() < 150


def test_steps_and_seeds_differ() -> None:
    source = windows(10_000, 4, batch_size=8)
    assert not torch.equal(source.batch(0).ids, source.batch(1).ids)
    assert not torch.equal(
        source.batch(0).ids, windows(10_000, 4, batch_size=8, seed=1).batch(0).ids
    )


def test_a_memory_map_serves_as_well(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bins") / "tokens.bin"
    tokens = np.arange(300, dtype=np.uint16)
    tokens.tofile(path)
    mapped = TokenWindows(np.memmap(path, dtype=np.uint16, mode="r"), 7, 2, 0, 300)
    assert torch.equal(mapped.batch(5).ids, windows(300, 7, batch_size=2).batch(5).ids)


@pytest.mark.parametrize(
    ("tokens", "seq_len", "vocab_size", "message"),
    [
        (np.arange(8), 8, 8, "8 tokens; seq_len 8 needs at least 9"),
        (np.arange(0), 1, 8, "0 tokens"),
        (np.arange(9), 4, 8, "ids run from 0 to 8"),
        (np.arange(-1, 8), 4, 8, "ids run from -1"),
        (np.arange(9.0), 4, 9, "flat array of integers"),
        (np.zeros((3, 3), dtype=int), 4, 9, "flat array of integers"),
        (np.arange(9), 0, 9, "seq_len is 0"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    tokens: np.ndarray, seq_len: int, vocab_size: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        TokenWindows(tokens, seq_len, 2, 0, vocab_size)


def test_steps_and_levels_are_checked() -> None:
    source = windows(20, 4)
    with pytest.raises(InputError, match="step is -1"):
        source.batch(-1)
    with pytest.raises(InputError, match="level is 1"):
        source.batch(0, level=1)
