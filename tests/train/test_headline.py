import re
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from open_mythos.train.headline import (
    Word,
    bar,
    clock,
    fitted,
    headline,
    mean_of,
    power,
    scaled,
)
from open_mythos.train.records import StepRecord


FULL = StepRecord(
    step=12345,
    loss=3.2,
    accuracy=0.41,
    lr=3e-4,
    grad_norm=0.83,
    n_loops=8,
    given_loops=8.0,
    mean_loops=8.0,
    tokens=1,
    tokens_per_second=315_204.0,
    seconds=1.0,
    rho_a=0.97,
    mfu=0.37,
    memory=41 * 2**30,
    scored_share=1.0,
    router_dead=0,
)


def shown(record: StepRecord) -> str:
    return fitted(headline(record), 1000)


@given(
    words=st.lists(st.tuples(st.integers(0, 9), st.text("abc", min_size=1)), min_size=1),
    width=st.integers(1, 60),
)
def test_what_is_left_out_ranks_after_all_that_stays(
    words: list[tuple[int, str]], width: int
) -> None:
    numbered = [Word(rank, f"{i}{text}") for i, (rank, text) in enumerate(words)]
    line = fitted(numbered, width)
    assert len(line) <= width
    kept = [w for w in numbered if w.text in line.split("  ")]
    lost = [w for w in numbered if w not in kept]
    assert [w.text for w in kept] == [w.text for w in numbered if w in kept]  # in their order
    if len(kept) > 1:
        assert max(w.rank for w in kept) <= min((w.rank for w in lost), default=9)


WORDS = ("loss", "tok/s", "loops", "lr", "grad", "MFU", "GiB", "rho", "acc")


@pytest.mark.parametrize(("width", "count"), [(40, 3), (50, 4), (80, 7), (100, 8), (110, 9)])
def test_wider_lines_tell_more(width: int, count: int) -> None:
    line = fitted(headline(FULL), width)
    assert {word for word in WORDS if word in line} == set(WORDS[:count])


def test_what_deserves_attention_shows_up_only_then() -> None:
    assert not re.search("dead|scored|level|used|epoch", shown(FULL))
    odd = replace(
        FULL, router_dead=3, scored_share=0.33, level=2, mean_loops=5.5, epoch=1.25, mfu=None
    )
    line = shown(replace(odd, flops_per_second=4.2e13))
    for words in ("3 dead experts", "scored 33%", "level 2", "loops 8.0 (used 5.5)", "epoch 1.25"):
        assert words in line
    assert "42.00 TFLOP/s" in line
    assert "MFU" not in line
    bare = replace(FULL, given_loops=None, rho_a=None, memory=None, mfu=None, scored_share=None)
    assert shown(bare) == "loss 3.200  acc 0.410  lr 3.00e-4  grad 0.83  315,204 tok/s  loops 8.0"


def test_rates_of_several_steps_are_those_of_all_their_time() -> None:
    steps = [
        replace(FULL, tokens_per_second=100.0, seconds=3.0, mfu=0.1, loss=1.0, given_loops=2.0),
        replace(FULL, tokens_per_second=200.0, seconds=1.0, mfu=0.5, loss=2.0, given_loops=6.0),
        replace(FULL, tokens_per_second=0.0, seconds=1.0, mfu=None, loss=9.0, skipped=True),
    ]
    found = mean_of([*steps[:2], replace(steps[2], memory=50 * 2**30)])
    assert found.tokens_per_second == pytest.approx((300 + 200) / 5)
    assert found.mfu == pytest.approx((0.3 + 0.5) / 4)
    assert found.loss == pytest.approx(1.5)
    assert found.given_loops == pytest.approx(16 / 3)
    assert found.memory == 50 * 2**30
    assert found.step == FULL.step
    assert mean_of([FULL]) == FULL
    assert mean_of([steps[2]]).loss == 9.0


def test_a_bar_is_as_long_as_the_share_that_is_done() -> None:
    assert [bar(x, 4).count("\u2501") for x in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 2, 4, 4]
    assert {len(bar(x / 10, 7)) for x in range(11)} == {7}


@given(seconds=st.integers(0, 10**7))
def test_a_time_reads_back_as_its_seconds(seconds: int) -> None:
    days, _, rest = clock(seconds).rpartition("d ")
    hours, minutes, last = (int(part) for part in rest.split(":"))
    assert ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + last == seconds
    assert hours < 24
    assert minutes < 60
    assert last < 60


@given(value=st.floats(1e-12, 1e15))
def test_numbers_in_short_keep_three_digits(value: float) -> None:
    assert float(power(value)) == pytest.approx(value, rel=5.1e-3)
    if value >= 1e6:
        number, prefix = scaled(value).split()
        factor = {"M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[prefix]
        assert float(number) * factor == pytest.approx(value, rel=5.1e-3)
