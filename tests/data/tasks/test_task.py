"""What holds for every task: statelessness, bounds, the split, and chance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from open_mythos.data.batch import IGNORE, Batch, BatchSource
from open_mythos.data.tasks.task import Examples, GeneratedTask, Task, lettered, numbered, taken
from open_mythos.errors import InputError


Build = Callable[..., GeneratedTask]


def same(a: Batch, b: Batch) -> bool:
    alike = torch.equal(a.ids, b.ids) and torch.equal(a.targets, b.targets)
    return alike and (a.n_loops, a.level) == (b.n_loops, b.level)


def levels(task: GeneratedTask) -> Iterator[int]:
    """Every trained difficulty, and one beyond where there is one."""
    beyond = task.max_level + 1
    yield from range(1, task.max_level + 1)
    if task.max_difficulty is None or beyond <= task.max_difficulty:
        yield beyond


def test_a_step_fixes_its_batch_and_any_partition_gives_the_same_rows(small: Build) -> None:
    task, again, other = small(seed=3), small(seed=3), small(seed=4)
    source: BatchSource = task
    draw = np.random.default_rng()
    for step in draw.integers(10**6, size=2).tolist():
        for level in (0, 1, task.max_level):
            whole = source.batch(step, level)
            assert same(whole, again.batch(step, level))
            order = draw.permutation(16).tolist()
            for rows in (order[:5], order[5:], [3], [2, 2]):
                part = task.batch(step, level, rows)
                assert torch.equal(part.ids, whole.ids[rows])
                assert torch.equal(part.targets, whole.targets[rows])
                assert (part.n_loops, part.level) == (whole.n_loops, whole.level)
        hardest = task.batch(step, task.max_level).ids  # the easiest may be a bit a row
        assert not torch.equal(hardest, task.batch(step + 1, task.max_level).ids)
        assert not torch.equal(hardest, other.batch(step, task.max_level).ids)


def test_rows_are_as_long_as_they_say_and_every_id_is_in_the_vocabulary(small: Build) -> None:
    task = small()
    protocol: Task = task
    assert protocol.row_length(1) > 0
    for difficulty in levels(task):
        batch = task.evaluation_batch(difficulty, seed=difficulty)
        assert batch.ids.shape == (16, task.row_length(difficulty))
        assert batch.n_loops is None
        assert batch.scored > 0
        assert len(task.words) == len(set(task.words)) == task.vocab_size
        answers = batch.targets[batch.targets != IGNORE]
        for ids in (batch.ids, answers):
            assert int(ids.min()) >= 0
            assert int(ids.max()) < task.vocab_size


def test_training_is_of_the_level_or_easier_and_grants_its_loops(small: Build) -> None:
    task = small()
    seen = set()
    for step in range(30):
        batch = task.batch(step, task.max_level)
        difficulty = batch.level if task.mixes else task.max_level
        assert 1 <= difficulty <= task.max_level
        assert batch.ids.shape[1] == task.row_length(difficulty)
        granted = task.loops_for(difficulty)
        if granted is None:
            assert batch.n_loops is None
        else:
            assert batch.n_loops in range(granted, granted + task.most_spare + 1)
        seen.add(difficulty)
    assert task.max_level in seen
    assert (len(seen) > 1) == task.mixes


def test_one_evaluation_seed_asks_the_same_of_runs_of_every_seed(small: Build) -> None:
    one, other = small(seed=1), small(seed=2)
    assert same(one.evaluation_batch(2, 7), other.evaluation_batch(2, 7))
    assert not torch.equal(one.evaluation_batch(2, 7).ids, one.evaluation_batch(2, 8).ids)


def test_chance_is_what_the_best_constant_of_each_position_gets(small: Build) -> None:
    task = small(batch_size=700)
    for difficulty in (1, task.max_level):
        learnt, asked = (task.evaluation_batch(difficulty, s).targets.numpy() for s in (1, 2))
        hits, total = 0, 0
        for known, wanted in zip(learnt.T, asked.T, strict=True):
            wanted = wanted[wanted != IGNORE]
            if (known != IGNORE).sum() < 100:
                continue
            guess = np.bincount(known[known != IGNORE]).argmax()
            hits, total = hits + int((wanted == guess).sum()), total + len(wanted)
        # The hundred facts or pairs of a small task are not spread evenly; rows share a draw.
        assert hits / total == pytest.approx(task.chance_at(difficulty), abs=0.05)


@dataclass(frozen=True, kw_only=True)
class Numbers(GeneratedTask):
    """Read a number below `size`, answer it; a task of which every instance is seen."""

    size: int = 5000
    batch_size: int = 500
    seed: int = 0
    max_level: int = 3
    loops_per_level: int = 0
    spare: int = 0
    rare: bool = False

    @property
    def vocab_size(self) -> int:
        return self.size

    @property
    def words(self) -> tuple[str, ...]:
        return numbered(self.size)

    @property
    def max_difficulty(self) -> int | None:
        return 9

    def row_length(self, difficulty: int) -> int:
        return 1

    def chance_at(self, difficulty: int) -> float:
        return 1 / self.size

    def instances(self, difficulty: int) -> int:
        return self.size

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        ids = draw.integers(self.size, size=(count, 1))
        return Examples(ids, ids, ids, ids[:, 0] < 0 if self.rare else ids[:, 0] % 7 > 0)


def drawn(batches: Iterator[Batch]) -> set[int]:
    return {int(x) for batch in batches for x in batch.ids.flatten()}


def test_training_and_evaluation_share_no_instance_and_leave_none_out() -> None:
    trained = drawn(Numbers(seed=s).batch(step) for s in range(3) for step in range(40))
    asked = drawn(Numbers().evaluation_batch(2, seed) for seed in range(60))
    assert not trained & asked
    assert trained | asked == {x for x in range(5000) if x % 7}
    # A quarter of 4285 valid ones: deviation 28.
    assert abs(len(asked) - 4285 / 4) < 5 * 28


def test_a_task_of_few_instances_is_not_split() -> None:
    trained = drawn(Numbers(size=50).batch(step) for step in range(20))
    assert trained == drawn(iter([Numbers(size=50).evaluation_batch(1)]))
    assert not Numbers(size=4095).splits(1)
    assert Numbers(size=4096).splits(1)


def test_what_does_not_come_up_is_given_up() -> None:
    with pytest.raises(InputError, match="difficulty 2 came up in 0 of 500"):
        Numbers(rare=True).evaluation_batch(2)


def test_strange_rows_levels_and_difficulties_are_refused() -> None:
    task = Numbers()
    for rows in ([0, 500], [-1]):
        with pytest.raises(InputError, match=rf"row {rows[-1]} is none of the batch's 500"):
            task.batch(0, rows=rows)
    with pytest.raises(InputError, match="level is 4"):
        task.batch(0, level=4)
    with pytest.raises(InputError, match="difficulty is 0; it must be at least 1"):
        task.evaluation_batch(0)
    with pytest.raises(InputError, match="difficulty is 10; this task ends at 9"):
        task.evaluation_batch(10)


def test_loops_are_granted_by_level_or_left_to_the_sampler() -> None:
    assert Numbers().loops_for(3) is None
    assert Numbers(loops_per_level=2).loops_for(3) == 6
    assert {Numbers(loops_per_level=2).batch(s).n_loops for s in range(40)} == {2, 4, 6}


def test_spare_loops_are_as_likely_as_none_and_change_no_row() -> None:
    plain, spare = Numbers(loops_per_level=2), Numbers(loops_per_level=2, spare=3)
    batches = [spare.batch(step, 1) for step in range(300)]
    counts = np.bincount([batch.n_loops or 0 for batch in batches], minlength=6)
    # 75 each expected, a deviation of 7.5: five of them.
    assert abs(counts[2:] - 75).max() < 38
    assert counts[:2].sum() == 0
    assert all(torch.equal(b.ids, plain.batch(s, 1).ids) for s, b in enumerate(batches[:40]))
    assert (plain.free, spare.free, Numbers().free) == (False, True, True)


@dataclass(frozen=True, kw_only=True)
class Pairs(Numbers):
    """Two numbers side by side as often as there is room, of which the second alone is hard."""

    def beside(self, difficulty: int) -> int:
        return 7 // (2 * difficulty)

    def row_length(self, difficulty: int) -> int:
        return 7

    @property
    def filler(self) -> int:
        return 4

    def examples(self, draw: np.random.Generator, difficulty: int, count: int) -> Examples:
        ids = draw.integers(self.size, size=(count, 2 * difficulty))
        hard = np.tile([False, True], (count, difficulty))
        return Examples(ids, ids, ids, hard=hard)


def test_what_is_not_filled_is_padded_and_evaluation_scores_hard_answers_alone() -> None:
    for difficulty, filled in ((1, 6), (2, 4), (3, 6)):
        asked = Pairs().evaluation_batch(difficulty)
        assert asked.ids.shape == (500, 7)
        assert (asked.ids[:, filled:] == 4).all()
        assert torch.equal(asked.targets[:, 1:filled:2], asked.ids[:, 1:filled:2])
        assert (asked.targets[:, 0:filled:2] == IGNORE).all()
        assert (asked.targets[:, filled:] == IGNORE).all()
    trained = Pairs(max_level=1).batch(0)
    assert torch.equal(trained.targets[:, :6], trained.ids[:, :6])
    assert (trained.targets[:, 6:] == IGNORE).all()


def test_half_of_the_batches_are_of_the_level_and_the_rest_uniform_up_to_it() -> None:
    counts = np.bincount([Numbers(batch_size=1).batch(s).level for s in range(900)], minlength=4)
    # 600 of level 3 expected and 150 of each other, deviations 14 and 11: five of them.
    assert abs(counts[3] - 600) < 70
    assert abs(counts[1:3] - 150).max() < 56


def test_rows_are_copies_so_that_no_pass_can_spoil_the_next() -> None:
    task = Numbers()
    wanted = task.batch(5).ids[:2].clone()
    task.batch(5, rows=[0, 1]).ids.zero_()
    assert torch.equal(task.batch(5, rows=[0, 1]).ids, wanted)
    assert taken(task.batch(5), []).ids.shape == (0, 1)


def test_words_are_counted_and_lettered() -> None:
    assert numbered(3, "#") == ("#0", "#1", "#2")
    assert lettered(54)[::26] == ("a", "a1", "a2")
    assert len(set(lettered(100))) == 100
