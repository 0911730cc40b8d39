"""Pointer chasing against a slow definition written from its description alone."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from open_mythos.data.batch import IGNORE, Batch, BatchSource
from open_mythos.data.streams import Purpose, stream
from open_mythos.data.tasks.pointer import Layout, Maps, PointerChase
from open_mythos.errors import InputError


LAYOUTS: tuple[Layout, ...] = ("pairs", "joint")


def read_row(task: PointerChase, row: list[int]) -> tuple[dict[int, int], list[int]]:
    """Take one row apart as a reader of the documentation would: the map, and what is asked."""
    s = task.states
    if task.layout == "pairs":
        f = {row[2 * i]: row[2 * i + 1] for i in range(s)}
        asked = row[2 * s :]
    else:
        f = {row[i] // s: row[i] % s for i in range(s)}
        asked = [token - s * s for token in row[s:]]
    assert set(f) == set(range(s))
    return f, asked


def check_answers(task: PointerChase, batch: Batch, hops: int) -> None:
    assert batch.ids.shape == (task.batch_size, task.seq_len)
    offset = task.states**2 if task.layout == "joint" else 0
    for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
        f, asked = read_row(task, row)
        assert len(asked) == task.queries
        if task.maps != "random":
            assert len(set(f.values())) == task.states
        if task.maps == "cycle":
            walked, x = set(), 0
            while x not in walked:
                walked.add(x)
                x = f[x]
            assert len(walked) == task.states
        shown = len(row) - task.queries
        assert wanted[:shown] == [IGNORE] * shown
        for x, answer in zip(asked, wanted[shown:], strict=True):
            for _ in range(hops):
                x = f[x]
            assert answer == x + offset
    assert int(batch.ids.min()) >= 0
    assert int(batch.ids.max()) < task.vocab_size
    assert int(batch.targets.max()) < task.vocab_size


@settings(max_examples=60, deadline=None)
@given(
    states=st.integers(2, 9),
    queries=st.integers(1, 6),
    seed=st.integers(0, 2**40),
    hops=st.integers(0, 40),
    layout=st.sampled_from(LAYOUTS),
    maps=st.sampled_from(get_args(Maps)),
)
def test_evaluation_answers_follow_the_map_hop_by_hop(
    states: int, queries: int, seed: int, hops: int, layout: Layout, maps: Maps
) -> None:
    task = PointerChase(states, queries, 3, layout=layout, maps=maps)
    batch = task.evaluation_batch(hops, seed)
    assert batch.n_loops is None
    check_answers(task, batch, hops)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    level=st.integers(0, 5),
    per_hop=st.integers(1, 3),
    layout=st.sampled_from(LAYOUTS),
)
def test_training_loops_tell_the_hops(
    seed: int, step: int, level: int, per_hop: int, layout: Layout
) -> None:
    task = PointerChase(6, 4, 3, seed, max_hops=5, layout=layout, loops_per_hop=per_hop)
    batch = task.batch(step, level)
    assert batch.n_loops is not None
    hops, rest = divmod(batch.n_loops, per_hop)
    assert rest == 0
    assert 1 <= hops <= (level or 5)
    assert batch.level == hops
    check_answers(task, batch, hops)
    assert torch.equal(batch.ids, task.batch(step, level).ids)


def test_half_the_batches_are_of_the_level_and_the_rest_uniform_up_to_it() -> None:
    task = PointerChase(2, 1, 1, max_hops=8)
    drawn = torch.tensor([task.batch(step, level=4).n_loops for step in range(800)])
    counts = torch.bincount(drawn, minlength=5)
    assert counts[0] == 0
    assert len(counts) == 5
    # 100 each and 400 more at the level expected, standard deviations 9 and 14: five of them.
    assert (counts[1:4] - 100).abs().max() < 47
    assert abs(int(counts[4]) - 500) < 70


@pytest.mark.parametrize("hops", [1, 3, 16])
def test_answers_of_permutations_are_uniform_at_every_depth(hops: int) -> None:
    task = PointerChase(8, 1, 16_000, maps="permutation")
    counts = torch.bincount(task.evaluation_batch(hops, seed=11).targets[:, -1], minlength=8)
    # One query per row makes the answers independent: 2000 each expected, deviation 42.
    assert (counts - 2000).abs().max() < 5 * 42
    assert task.chance == 1 / 8


def test_the_image_of_a_random_map_shrinks_with_depth() -> None:
    # Why permutations are recommended: of 16 states, about 10 are reached in one hop, 4 in many.
    def reached(hops: int, maps: Maps) -> float:
        task = PointerChase(16, 200, 200, maps=maps)
        answers = task.evaluation_batch(hops).targets[:, -200:]
        return sum(len(set(row)) for row in answers.tolist()) / 200

    assert reached(32, maps="random") < 0.6 * reached(1, maps="random")
    assert reached(32, maps="permutation") == pytest.approx(16, abs=0.1)


def test_shown_order_is_shuffled_and_maps_are_fresh() -> None:
    task = PointerChase(8, 1, 64)
    ids = task.batch(0).ids
    assert len({tuple(row) for row in ids[:, 0:16:2].tolist()}) > 60
    assert len({tuple(row) for row in ids.tolist()}) == 64
    assert not torch.equal(ids, task.batch(1).ids)


@pytest.mark.parametrize("maps", get_args(Maps))
def test_every_state_leads_to_every_state_equally_often(maps: Maps) -> None:
    task = PointerChase(4, 1, 8000, layout="joint", maps=maps)
    entries = task.batch(3).ids[:, :4].flatten()
    counts = torch.bincount(entries, minlength=16)
    # Each arrow is in a quarter of the 8000 maps (on a cycle none from a state to itself, hence
    # a third for the others): deviation at most 43, five of them.
    arrows = counts.view(4, 4)
    if maps == "cycle":
        assert int(arrows.diagonal().sum()) == 0
        counts = arrows[~torch.eye(4, dtype=torch.bool)]
    assert (counts - counts.double().mean()).abs().max() < 215
    assert int(counts.sum()) == 32_000


def test_one_evaluation_seed_asks_the_same_at_every_depth_and_for_every_run() -> None:
    one, other = PointerChase(seed=1), PointerChase(seed=2)
    assert torch.equal(one.evaluation_batch(2, 5).ids, other.evaluation_batch(9, 5).ids)
    assert torch.equal(one.evaluation_batch(2, 5).targets, other.evaluation_batch(2, 5).targets)


@pytest.mark.parametrize("seed", range(5))
def test_no_evaluation_row_was_trained_on(seed: int) -> None:
    chase = PointerChase(12, 8, 16, seed)
    rows = {tuple(row) for step in range(40) for row in chase.batch(step).ids.tolist()}
    held_out = chase.evaluation_batch(4, seed).ids
    assert not rows & {tuple(row) for row in held_out.tolist()}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"states": 1}, "states is 1"),
        ({"queries": 0}, "queries is 0"),
        ({"batch_size": 2.0}, "batch_size must be an int"),
        ({"max_hops": -1}, "max_hops is -1"),
        ({"loops_per_hop": 0}, "loops_per_hop is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"layout": "pair"}, "did you mean 'pairs'"),
    ],
)
def test_pointer_chase_refuses(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PointerChase(**fields)  # type: ignore[arg-type]


def test_levels_and_depths_are_checked() -> None:
    with pytest.raises(InputError, match="level is 9"):
        PointerChase(max_hops=8).batch(0, level=9)
    with pytest.raises(InputError, match="hops is -1"):
        PointerChase().evaluation_batch(-1)
    with pytest.raises(InputError, match="hops is 1000; this task ends at 999"):
        PointerChase(told=True).evaluation_batch(1000)


def test_it_is_a_batch_source() -> None:
    source: BatchSource = PointerChase(max_hops=3)
    assert (source.vocab_size, source.max_level) == (16, 3)
    assert PointerChase(states=5, layout="joint").vocab_size == 30


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
    layout=st.sampled_from(LAYOUTS),
    maps=st.sampled_from(get_args(Maps)),
    split=st.booleans(),
)
def test_rows_that_tell_their_hops_are_those_that_do_not_with_three_digits_more(
    seed: int, step: int, layout: Layout, maps: Maps, split: bool
) -> None:
    plain = PointerChase(7, 4, 5, seed, max_hops=30, layout=layout, maps=maps, split=split)
    told = replace(plain, told=True)
    one, two = plain.batch(step), told.batch(step)
    assert (one.level, two.n_loops) == (two.level, None)
    shown = plain.seq_len - 4
    digits = [plain.vocab_size + int(digit) for digit in f"{one.level:03d}"]
    assert two.ids[:, shown : shown + 3].tolist() == [digits] * 5
    for rows, more in ((one.ids, two.ids), (one.targets, two.targets)):
        assert torch.equal(rows, torch.cat([more[:, :shown], more[:, shown + 3 :]], 1))
    assert (two.targets[:, shown : shown + 3] == IGNORE).all()
    assert (told.vocab_size, told.seq_len) == (plain.vocab_size + 10, plain.seq_len + 3)


@pytest.mark.parametrize("seed", range(3))
def test_split_maps_are_in_training_or_in_evaluation_and_in_neither_otherwise(seed: int) -> None:
    # 5040 cycles: 2000 of training would hold a third of those asked, if nothing kept them apart.
    def maps(task: PointerChase, batches: list[Batch]) -> set[tuple[int, ...]]:
        rows = [read_row(task, row)[0] for batch in batches for row in batch.ids.tolist()]
        return {tuple(f[x] for x in range(8)) for f in rows}

    def shared(split: bool) -> int:
        task = PointerChase(8, 2, 50, seed, maps="cycle", split=split)
        asked = [task.evaluation_batch(2, seed), task.evaluation_batch(20, seed + 1)]
        return len(maps(task, [task.batch(s) for s in range(40)]) & maps(task, asked))

    assert shared(split=True) == 0
    assert shared(split=False) > 0


def test_the_draws_are_those_of_the_first_release() -> None:
    # The demo's runs are repeated bit for bit: written out once more, in the order it had then.
    task = PointerChase(11, 11, 64, 5, max_hops=6, layout="joint", maps="cycle")
    for step in range(5):
        draw = stream(5, Purpose.TRAINING, step)
        hops = 4 if draw.random() < 0.5 else int(draw.integers(1, 5))
        ordered = np.tile(np.arange(11), (64, 1))
        keys = draw.permuted(ordered, axis=1)
        shuffled = draw.permuted(ordered, axis=1)
        asked = draw.integers(11, size=(64, 11))
        batch = task.batch(step, level=4)
        assert batch.level == hops
        for row in range(64):
            f = dict(zip(shuffled[row], np.roll(shuffled[row], -1), strict=True))
            wanted = [key * 11 + f[key] for key in keys[row]] + [121 + x for x in asked[row]]
            assert batch.ids[row].tolist() == wanted


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    hops=st.integers(1, 12),
    layout=st.sampled_from(LAYOUTS),
    maps=st.sampled_from(get_args(Maps)),
)
def test_each_token_of_a_chain_is_one_hop_behind_the_one_before(
    seed: int, hops: int, layout: Layout, maps: Maps
) -> None:
    task = PointerChase(6, 5, 4, 0, max_hops=3, layout=layout, maps=maps, chain=13, spare=1)
    shown, s = (12, 0) if layout == "pairs" else (6, 36)
    trained = task.batch(seed % 10**6, level=3)
    for batch, hardest in ((trained, trained.level), (task.evaluation_batch(hops, seed), hops)):
        assert batch.ids.shape == (4, shown + 13)
        beside = 13 // (hardest + 1)
        for row, wanted in zip(batch.ids.tolist(), batch.targets.tolist(), strict=True):
            f = read_row(replace(task, chain=0, spare=0), row)[0]
            assert wanted[:shown] == [IGNORE] * shown
            read, answers = row[shown:], wanted[shown:]
            starts = [at for at, token in enumerate(read) if token != s + 6]
            assert starts == [i * (hardest + 1) for i in range(beside)]
            for start in starts:
                x = read[start] - s
                assert answers[start] == IGNORE
                for at in range(start + 1, start + hardest + 1):
                    x = f[x]
                    # Evaluation scores nothing that takes fewer hops than were asked for.
                    scored = batch is trained or at == start + hardest
                    assert answers[at] == (x + s if scored else IGNORE)
            assert set(answers[beside * (hardest + 1) :]) <= {IGNORE}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chain": 8}, "max_hops is 8, but a chain of 8 positions has room for 7"),
        ({"chain": 9, "told": True}, "told is True and there is a chain"),
        ({"spare": 2}, "spare is 2, but nothing in the row says when to stop"),
    ],
)
def test_chains_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PointerChase(**fields)
    assert PointerChase(chain=9, loops_per_hop=0).loops_for(3) is None
    with pytest.raises(InputError, match="hops is 9; this task ends at 8"):
        PointerChase(chain=9).evaluation_batch(9)
