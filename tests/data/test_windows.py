"""Packing loses and doubles no target, and a sample depends on its number alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.shards import TokenShards
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


@given(data=st.data(), seed=st.integers(0, 2**40), epoch=st.integers(0, 2**20))
def test_an_epoch_of_training_predicts_every_target_exactly_once(
    data: st.DataObject, seed: int, epoch: int
) -> None:
    """Whatever the lengths of the documents, and however the epoch is cut into batches."""
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    n = sum(lengths) + 1
    seq_len = data.draw(st.integers(1, n - 1))
    source = windows(n, seq_len, seed=seed)
    first = epoch * source.windows
    rows = source.samples(range(first, first + source.windows))
    scored = rows.targets != IGNORE
    assert rows.targets[scored].sort().values.tolist() == list(range(1, n))
    assert torch.equal(rows.targets[scored], rows.ids[scored] + 1)
    assert math.isclose(source.real_share, float(scored.double().mean()))
    # Padding is the end of one row, and nowhere else.
    short = (~scored).any(1)
    assert int(short.sum()) <= 1
    assert torch.equal(scored.sort(1, descending=True).values, scored)


@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**9), seq_len=st.integers(1, 12))
def test_a_training_window_is_a_stretch_of_text(seed: int, step: int, seq_len: int) -> None:
    n = 40
    batch = windows(n, seq_len, seed=seed).batch(step)
    assert batch.ids.shape == (3, seq_len)
    assert batch.ids.dtype == torch.int64
    assert batch.n_loops is None
    assert batch.documents is None
    scored = batch.targets != IGNORE
    # The next input is this target, but where the end of the text meets its beginning.
    goes_on = batch.targets[:, :-1] % (n - 1) == batch.ids[:, 1:]
    assert goes_on[scored[:, 1:]].all()


@given(data=st.data(), step=st.integers(0, 10**6), size=st.integers(1, 8))
def test_any_rows_of_a_batch_are_those_of_the_whole(
    data: st.DataObject, step: int, size: int
) -> None:
    text = np.random.randint(0, 50, size=data.draw(st.integers(10, 60)))  # noqa: NPY002
    source = TokenWindows(text, 4, size, 3, 50, starts=np.array([0, 5, 7]))
    whole = source.batch(step)
    some = data.draw(st.lists(st.integers(0, size - 1), max_size=size))
    part = source.batch(step, 0, some)
    assert torch.equal(part.ids, whole.ids[some])
    assert torch.equal(part.targets, whole.targets[some])
    assert part.documents is not None
    assert whole.documents is not None
    assert torch.equal(part.documents, whole.documents[some])
    again = source.samples([step * size + row for row in some])
    assert torch.equal(again.ids, part.ids)


@given(data=st.data(), sample=st.integers(0, 1000))
def test_positions_know_their_documents(data: st.DataObject, sample: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=12))
    n = sum(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    seq_len = data.draw(st.integers(1, n - 1))
    source = TokenWindows(np.arange(n), seq_len, 1, 0, n, starts=starts)
    batches = [source.samples([sample]), *source.evaluation_batches()]
    for batch in batches:
        assert batch.documents is not None
        for ids, targets, documents in zip(batch.ids, batch.targets, batch.documents, strict=True):
            real = targets != IGNORE
            places = ids[real].tolist()
            # A slow twin: count on whenever the owner changes, or the text begins again.
            wanted, count = [], 0
            for i, place in enumerate(places):
                new = i > 0 and (owner[place] != owner[places[i - 1]] or place == 0)
                count += new
                wanted.append(count)
            assert documents[real].tolist() == wanted
            assert (documents[~real] == count + 1).all()


@given(seed=st.integers(0, 2**40), steps=st.permutations(range(5)))
def test_a_batch_does_not_depend_on_the_calls_before_it(seed: int, steps: list[int]) -> None:
    used, fresh = windows(500, 9, seed=seed), windows(500, 9, seed=seed)
    seen = {step: used.batch(step).ids for step in steps}
    for step in sorted(seen, reverse=True):
        assert torch.equal(seen[step], fresh.batch(step).ids)


def test_every_start_comes_up_about_equally_often() -> None:
    counts = torch.zeros(40, dtype=torch.int64)
    for seed in range(20):
        starts = windows(41, 2, seed=seed).samples(range(200)).ids[:, 0]
        counts += torch.bincount(starts, minlength=40)
    # 100 each expected. An epoch has every second start once, so that a start is met in each of the
    # 200 epochs or not: standard deviation sqrt(200) / 2 = 7.
    assert (counts - 100).abs().max() < 36


def test_an_epoch_ends_with_its_last_window() -> None:
    source = windows(41, seq_len=5, batch_size=2)
    assert source.windows == 8
    assert [source.epoch(step) for step in (0, 1, 4, 10)] == [0.0, 0.25, 1.0, 2.5]


def test_epochs_differ_in_order_and_in_their_cuts() -> None:
    source = windows(1001, 10)
    epochs = [source.samples(range(e * 100, e * 100 + 100)).ids[:, 0] for e in range(5)]
    assert len({tuple(starts.tolist()) for starts in epochs}) == 5
    assert len({int(starts[0]) % 10 for starts in epochs}) > 1


def test_shards_serve_as_well() -> None:
    text = np.arange(300, dtype=np.uint16)
    shards = TokenShards(tuple(np.split(text, [7, 7, 120])), text.dtype)
    source = TokenWindows(shards, 9, 4, 0, 300)
    for step in range(12):
        assert torch.equal(source.batch(step).ids, windows(300, 9, batch_size=4).batch(step).ids)


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
    with pytest.raises(InputError, match="row 3 is asked for; a batch has rows 0 to 2"):
        source.batch(0, rows=[0, 3])
    with pytest.raises(InputError, match="row is -1"):
        source.batch(0, rows=[-1])
