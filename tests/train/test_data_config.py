from dataclasses import replace
from typing import Any

import pytest

from open_mythos.data.tasks.registry import TASKS
from open_mythos.errors import ConfigError
from open_mythos.train.data_config import DataConfig
from open_mythos.train.recipe import Recipe
from open_mythos.train.sources import build_sources


@pytest.mark.parametrize("kind", sorted(TASKS))
def test_the_row_length_is_that_of_the_longest_rows(tiny: Recipe, kind: Any) -> None:
    data = DataConfig(kind=kind, batch_size=2)
    model = replace(tiny.model, max_seq_len=4096, vocab_size=70_000)
    source = build_sources(replace(tiny, model=model, data=data)).train
    widths = {source.batch(step, source.max_level).ids.shape[1] for step in range(3)}
    assert max(widths) <= data.row_length
    assert data.row_length <= 2 * max(widths) + 64


def test_settings_of_a_task_are_the_tasks_own() -> None:
    with pytest.raises(ConfigError, match="is no task"):
        DataConfig(kind="text", task={"digits": 3})
    with pytest.raises(ConfigError, match=r"data\.task"):
        DataConfig(kind="pointer", task={"depths": 3})
