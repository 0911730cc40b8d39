from dataclasses import replace

import numpy as np
import pytest
import torch

from open_mythos.config.mythos import MythosConfig
from open_mythos.data.tasks.pointer import PointerChase
from open_mythos.data.tasks.prefix import PrefixParity
from open_mythos.data.windows import TokenWindows
from open_mythos.eval.doctor.subject import BATCHES, PROBE, depths, rows_of, subject
from open_mythos.train.presets import recipe as named_recipe
from open_mythos.train.recipe import DepthConfig


CONFIG = MythosConfig(max_seq_len=64, max_loop_iters=5)


def text(seq_len: int = 16) -> TokenWindows:
    tokens = np.random.default_rng(0).integers(50, size=20_000)
    return TokenWindows(tokens=tokens, seq_len=seq_len, batch_size=3, seed=0, vocab_size=50)


def test_depths_double_twice_beyond_the_trained() -> None:
    assert depths(8) == [1, 4, 8, 16, 32]
    assert depths(3) == [1, 3, 6, 12]
    assert depths(1) == [1, 2, 4]


def test_text_is_scored_on_the_same_targets_at_every_depth() -> None:
    recipe = named_recipe("cpu-tiny")
    found = subject(text(), CONFIG, recipe)
    assert found.trained == 3
    assert found.varied is True
    assert not found.tied
    assert sorted(found.scored) == depths(3)
    assert len({id(batches) for batches in found.scored.values()}) == 1
    batches = found.scored[3]
    assert len(batches) == BATCHES
    assert torch.equal(found.probe.ids, batches[0].ids)
    assert found.probe.ids.shape == (PROBE // 16, 16)
    ids = torch.cat([batch.ids for batch in batches]).flatten()
    assert ids.tolist() == text().tokens[: len(ids)].tolist()


def test_the_trained_depth_is_what_one_says_else_the_recipes_else_the_configs() -> None:
    fixed = replace(named_recipe("cpu-tiny"), depth=DepthConfig(kind="fixed", mean=6))
    assert subject(text(), CONFIG, fixed, trained=7).trained == 7
    found = subject(text(), CONFIG, fixed)
    assert (found.trained, found.varied) == (6, False)
    found = subject(text(), CONFIG)
    assert (found.trained, found.varied) == (5, None)


def test_a_task_of_free_depth_is_examined_at_its_hardest_level() -> None:
    task = PrefixParity(length=12, batch_size=5)
    found = subject(task, CONFIG, named_recipe("task-parity"))
    assert not found.tied
    assert found.trained == 4
    assert found.probe.ids.shape == (rows_of(task.row_length(12)), task.row_length(12))
    assert sorted(found.scored) == depths(4)


def test_where_loops_follow_difficulty_harder_rows_get_more_of_them() -> None:
    task = PointerChase(states=5, queries=4, max_hops=4, loops_per_hop=2)
    found = subject(task, CONFIG)
    assert found.tied
    assert found.trained == 8
    assert sorted(found.scored) == [2, 4, 8, 16, 32]
    sized = replace(task, batch_size=rows_of(task.seq_len))
    for loops, batches in found.scored.items():
        for seed, batch in enumerate(batches):
            assert torch.equal(batch.ids, sized.evaluation_batch(loops // 2, seed=seed).ids)
    assert torch.equal(found.probe.ids, sized.evaluation_batch(4).ids)


@pytest.mark.parametrize(("length", "rows"), [(16, 128), (8, 128), (64, 32), (4096, 1)])
def test_a_probe_has_some_two_thousand_positions(length: int, rows: int) -> None:
    assert rows_of(length) == rows
