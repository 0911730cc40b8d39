"""Clocks against reading the number line symbol by symbol, as a network has to."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE
from open_mythos.data.tasks.clock import Clock, mixed_counts
from open_mythos.data.tasks.induction import InductionHops
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.errors import InputError


def counted(line: list[int], symbol: int, zero: int) -> int:
    """How many looks to the left lead from a symbol to zero; negative where the line ends first."""
    at, steps = line.index(symbol), 0
    while line[at] != zero:
        if at == 0:
            return -1
        at, steps = at - 1, steps + 1
    return steps


@settings(max_examples=30, deadline=None)
@given(
    symbols=st.integers(1, 20),
    offset=st.integers(0, 9),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_every_count_up_to_the_hardest_is_so_many_looks_from_zero(
    symbols: int, offset: int, seed: int, data: st.DataObject
) -> None:
    clock, draw = Clock(symbols, offset), np.random.default_rng(seed)
    hardest = data.draw(st.integers(0, symbols))
    line = clock.line(draw, 6)
    shown = clock.shown(draw, line, hardest)
    assert shown.shape == (6, clock.positions)
    for row, names in zip(shown.tolist(), line.tolist(), strict=True):
        assert sorted(row) == list(range(offset, offset + clock.vocab_size))
        found = [counted(row, names[k], offset) for k in range(hardest + 1)]
        assert found == list(range(hardest + 1))
    assert len(clock.words) == clock.vocab_size


def test_symbols_and_cuts_are_uniform() -> None:
    clock, draw = Clock(6, 0), np.random.default_rng()
    line = clock.line(draw, 7000)
    shown = clock.shown(draw, line, 2)
    first = np.bincount(line[:, 1], minlength=7)[1:]
    zero = np.bincount((shown == 0).argmax(1), minlength=7)
    # Sixths and fifths of 7000, deviations 31 and 33: five of them.
    assert abs(first - 7000 / 6).max() < 160
    assert abs(zero[:5] - 1400).max() < 170
    assert zero[5:].sum() == 0


def test_half_of_the_counts_are_the_hardest_and_the_rest_are_uniform_with_zero() -> None:
    counts = np.bincount(mixed_counts(np.random.default_rng(), 3, (40, 200)).ravel())
    # 8000: 5000 of the hardest and 1000 of each other, deviations 43 and 30.
    assert abs(counts[3] - 5000) < 220
    assert abs(counts[:3] - 1000).max() < 150


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    hops=st.integers(1, 9),
    layout=st.sampled_from(["pairs", "joint"]),
)
def test_timed_queries_are_followed_as_often_as_their_symbol_counts(
    seed: int, hops: int, layout: Any
) -> None:
    task = PointerChase(7, 5, 4, 0, max_hops=2, layout=layout, clock=9)
    trained = task.batch(seed % 10**6, level=2)
    for batch, hardest in ((trained, 2), (task.evaluation_batch(hops, seed), hops)):
        for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
            shown, s = (14, 0) if layout == "pairs" else (7, 49)
            if layout == "pairs":
                f = dict(zip(row[:14:2], row[1:14:2], strict=True))
            else:
                f = {entry // 7: entry % 7 for entry in row[:7]}
            line, asked = row[shown : shown + 10], row[shown + 10 :]
            answers = wanted[shown + 10 :]
            assert set(wanted[: shown + 10]) | set(answers[::2]) == {IGNORE}
            for symbol, state, answer in zip(asked[::2], asked[1::2], answers[1::2], strict=True):
                count = counted(line, symbol, s + 7)
                at = state - s
                for _ in range(count):
                    at = f[at]
                assert 0 <= count <= hardest
                # Evaluation scores nothing that takes fewer hops than were asked for.
                scored = batch is trained or count == hops
                assert answer == (at + s if scored else IGNORE)


def test_p_hop_shows_the_same_strings_behind_a_clock_that_counts_its_hops() -> None:
    plain = InductionHops(symbols=4, length=20, batch_size=5, max_level=2)
    timed = InductionHops(symbols=4, length=20, batch_size=5, max_level=2, clock=6)
    one, other = plain.evaluation_batch(5, 3), timed.evaluation_batch(5, 3)
    assert (one.ids == other.ids[:, 8:]).all()
    assert (one.targets == other.targets[:, 8:]).all()
    assert (other.targets[:, :8] == IGNORE).all()
    assert [counted(row[:7], row[7], 4) for row in other.ids.tolist()] == [5] * 5
    assert timed.loops_for(5) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clock": 5}, "max_hops is 8, but a clock of 5 counts no further"),
        ({"clock": 9, "told": True}, "told is True and there is a clock"),
        ({"spare": 2}, "spare is 2, but nothing in the row says when to stop"),
        ({"loops_per_hop": 0}, "loops_per_hop is 0"),
    ],
)
def test_clocks_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PointerChase(**fields)
    assert PointerChase(clock=8, loops_per_hop=0).loops_for(3) is None
    with pytest.raises(InputError, match="hops is 9; this task ends at 8"):
        PointerChase(clock=8).evaluation_batch(9)
