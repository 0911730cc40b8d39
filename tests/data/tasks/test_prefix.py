"""Prefix tasks against counting, adding and permuting one step at a time."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings, strategies as st

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.batch import IGNORE, BatchSource
from open_mythos.data.tasks.prefix import (
    Group,
    PrefixParity,
    PrefixProduct,
    PrefixSum,
    elements,
)
from open_mythos.data.tasks.task import GeneratedTask
from open_mythos.errors import InputError
from open_mythos.model.mythos import OpenMythos


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6), level=st.integers(0, 20))
def test_parity_counts_the_ones(seed: int, step: int, level: int) -> None:
    task = PrefixParity(20, 4, seed)
    batch = task.batch(step, level)
    assert batch.ids.shape == (4, level or 20)
    assert batch.n_loops is None
    for bits, answers in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        assert set(bits) <= {0, 1}
        assert answers == [bits[: i + 1].count(1) % 2 for i in range(len(bits))]
    assert torch.equal(batch.ids, task.batch(step, level).ids)


def test_parity_is_a_coin_at_every_position() -> None:
    task = PrefixParity(16, 4000)
    odd = task.evaluation_batch(64, seed=3).targets.double().mean(0)
    assert odd.shape == (64,)
    # Deviation 0.0079: five of them.
    assert (odd - task.chance).abs().max() < 0.04


@pytest.mark.parametrize("seed", range(5))
def test_no_long_evaluation_row_was_trained_on(seed: int) -> None:
    parity = PrefixParity(48, 16, seed)
    rows = {tuple(row) for step in range(40) for row in parity.batch(step).ids.tolist()}
    assert not rows & {tuple(row) for row in parity.evaluation_batch(48, seed).ids.tolist()}


def test_parity_is_a_batch_source_that_checks_its_lengths() -> None:
    source: BatchSource = PrefixParity(length=7)
    assert (source.vocab_size, source.max_level) == (2, 7)
    with pytest.raises(InputError, match="length is 0"):
        PrefixParity(length=0)
    with pytest.raises(InputError, match="length is 0"):
        PrefixParity().evaluation_batch(0)
    with pytest.raises(InputError, match="level is 25"):
        PrefixParity(length=24).batch(0, level=25)


@settings(max_examples=30, deadline=None)
@given(modulus=st.integers(2, 30), length=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_sums_add_up_one_by_one(modulus: int, length: int, seed: int) -> None:
    batch = PrefixSum(modulus=modulus, batch_size=3, start=False).evaluation_batch(length, seed)
    assert batch.ids.shape == (3, length)
    for terms, answers in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        total = 0
        for term, answer in zip(terms, answers, strict=True):
            total = (total + term) % modulus
            assert answer == total


@pytest.mark.parametrize("group", get_args(Group))
def test_words_move_the_points_one_factor_after_the_other(group: Group) -> None:
    known = elements(group)
    points = int(group[1])
    batch = PrefixProduct(group=group, batch_size=8, start=False).evaluation_batch(
        12, seed=len(known)
    )
    for word, answers in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        places = list(range(points))
        for factor, answer in zip(word, answers, strict=True):
            places = [known[factor][place] for place in places]
            assert list(known[answer]) == places


def test_groups_are_whole() -> None:
    assert {group: len(elements(group)) for group in get_args(Group)} == {
        "s3": 6,
        "s4": 24,
        "s5": 120,
        "a4": 12,
        "a5": 60,
    }
    # Even: a product of two swaps; the swap itself is not.
    assert (1, 0, 3, 2) in elements("a4")
    assert (1, 0, 2, 3) not in elements("a4")


@pytest.mark.parametrize(
    "task",
    [
        PrefixParity(12, 40, split=True, start=True),
        PrefixSum(modulus=8, batch_size=40, max_level=4),
        PrefixProduct(group="s4", batch_size=40, max_level=3),
    ],
    ids=lambda task: type(task).__name__,
)
def test_no_split_row_is_in_training_and_evaluation(task: GeneratedTask) -> None:
    # Of 4096 or 13,824 rows 1600 are trained: without the split a tenth at least would be shared.
    level = task.max_level
    trained = {tuple(row) for s in range(40) for row in task.batch(s, level).ids.tolist()}
    asked = {tuple(r) for s in range(5) for r in task.evaluation_batch(level, s).ids.tolist()}
    assert len(asked) > 150
    assert not trained & asked


@pytest.mark.parametrize(
    "task",
    [
        PrefixParity(6, 5, start=True),
        PrefixSum(batch_size=5, max_level=6),
        PrefixProduct(batch_size=5, max_level=6),
    ],
    ids=lambda task: type(task).__name__,
)
def test_a_row_with_a_start_is_one_without_behind_a_token_of_its_own(task: Any) -> None:
    plain = replace(task, start=False)
    one, other = plain.batch(3), task.batch(3)
    assert torch.equal(one.ids, other.ids[:, 1:])
    assert torch.equal(one.targets, other.targets[:, 1:])
    assert other.ids[:, 0].tolist() == [plain.vocab_size] * 5
    assert other.targets[:, 0].tolist() == [IGNORE] * 5
    assert (task.vocab_size, task.row_length(6)) == (plain.vocab_size + 1, 7)


@pytest.mark.parametrize(
    "task",
    [
        PrefixParity(4, 9, start=True, room=23),
        PrefixSum(modulus=5, batch_size=9, max_level=4, room=23),
        PrefixProduct(group="a4", batch_size=9, max_level=4, room=23),
    ],
    ids=lambda task: type(task).__name__,
)
def test_a_room_holds_whole_problems_behind_their_starts(task: Any) -> None:
    start = task.vocab_size - 1
    batch, asked = task.batch(2), task.evaluation_batch(4)
    for found in (batch, asked):
        assert found.ids.shape == (9, 23)
        assert (found.ids[:, 0:20:5] == start).all()
        assert (found.ids[:, 20:] == start).all()
        assert (found.targets[found.ids == start] == IGNORE).all()
    # Each problem is one that is alone in its row, and evaluation asks what takes all of it.
    alone = replace(task, room=0, batch_size=36).batch(2)
    assert torch.equal(batch.ids[:, :20].reshape(36, 5), alone.ids)
    assert torch.equal(batch.targets[:, :20].reshape(36, 5), alone.targets)
    assert (asked.targets != IGNORE).sum(0).tolist() == ([0] * 4 + [9]) * 4 + [0] * 3
    assert task.row_length(40) == 41


def test_a_room_without_starts_is_refused() -> None:
    with pytest.raises(InputError, match="room is 9, but start is False"):
        PrefixSum(start=False, room=9)


@pytest.mark.parametrize(("bits", "best"), [(2, 0.875), (4, 0.922), (24, 0.986)])
def test_positions_of_a_constant_row_look_alike_which_bounds_parity(bits: int, best: float) -> None:
    cfg = MythosConfig(
        vocab_size=2, dim=16, n_heads=2, n_kv_heads=1, attn_type="gqa", max_seq_len=32, n_experts=4
    )
    torch.manual_seed(bits)
    logits = OpenMythos(cfg).eval()(torch.ones(1, bits, dtype=torch.int64), 3)
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits))
    # All ones from the start, a share of 2^-n of the rows, are wrong at every second n at best.
    wrong = sum(2.0**-n for n in range(2, bits + 1, 2))
    assert 1 - wrong / bits == pytest.approx(best, abs=5e-4)
